/** What a request to run something asks for, read and checked once for all its forms: answered whole, streamed, in the background. */
import { statSync } from "node:fs";
import type { Config } from "../config.ts";
import type { Environment } from "../environment.ts";
import { AgentError, invalidRequest } from "../errors.ts";
import {
  type Body,
  optionalString,
  optionalStrings,
  secondsField,
  stringField,
  systemString,
  variablesField,
  withoutNul,
} from "../fields.ts";
import { languageOf } from "./languages.ts";

/** Something to run: code for the kernel, or a program. */
export interface Job {
  language: string | undefined;
  /** What the caller sent, shortened, for lists of processes. */
  title: string;
  /** Undefined: it runs in the Python kernel. */
  program: { command: string; args: string[]; input?: string } | undefined;
  code: string;
  workdir: string;
  /** The request's own variables. */
  env: Record<string, string>;
  timeoutMs: number;
}

export interface JobDefaults {
  timeoutS: number;
  maxTimeoutS?: number;
  /** A fresh interpreter instead of the kernel: runs that others must not wait for. */
  isDetached?: boolean;
  language?: string;
}

const MAX_TIMEOUT_S = 24 * 3600;
const TITLE_LENGTH = 200;

export function codeJob(config: Config, environment: Environment, body: Body, defaults: JobDefaults): Job {
  const code = stringField(body, "code");
  const asked = defaults.language ?? optionalString(body, "language") ?? "python";
  const common = commonOf(config, body, defaults);
  // The kernel runs already, wherever programs are looked for by this call.
  const searchPath = [environment.forProcess(common.env)["PATH"], process.env["PATH"]].join(":");
  const language = languageOf(asked, searchPath, config.helperDir);
  if (language.name === "python") withoutNul(code, "code");
  const runsInKernel = language.name === "python" && defaults.isDetached !== true;
  return { ...common, code, language: language.name, title: titleOf(code), program: runsInKernel ? undefined : language.run(code) };
}

/** Two forms: `{command, args}` runs a program, `{command}` alone is a whole shell line. */
export function commandJob(config: Config, body: Body, defaults: JobDefaults): Job {
  const command = systemString(body, "command");
  if (command.trim() === "") throw invalidRequest('"command" is empty');
  const args = optionalStrings(body, "args");
  const program = args === undefined ? { command: "/bin/sh", args: ["-c", command] } : { command, args };
  const title = titleOf([command, ...(args ?? [])].join(" "));
  return { ...commonOf(config, body, defaults), code: "", language: undefined, title, program };
}

function commonOf(config: Config, body: Body, { timeoutS, maxTimeoutS }: JobDefaults) {
  const timeoutMs = secondsField(body, "timeout", timeoutS, maxTimeoutS ?? MAX_TIMEOUT_S) * 1000;
  return { workdir: workdirOf(config, body), env: variablesField(body, "env"), timeoutMs };
}

function workdirOf(config: Config, body: Body): string {
  const name = body["workdir"] === undefined || body["workdir"] === null ? "working_dir" : "workdir";
  const workdir = withoutNul(optionalString(body, name) ?? config.workdir, name);
  if (statSync(workdir, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new AgentError(400, "DIRECTORY_NOT_FOUND", `"${name}": there is no directory ${workdir}`, { path: workdir });
  return workdir;
}

const titleOf = (text: string) => (text.length > TITLE_LENGTH ? `${text.slice(0, TITLE_LENGTH)}…` : text);
