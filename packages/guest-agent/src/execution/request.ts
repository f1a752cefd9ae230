/**
 * A request to run something, parsed and checked in one place for all its forms: one response, a
 * stream, or in the background.
 */
import type { GuestAgentConfig } from "../config.ts";
import type { Environment } from "../environment.ts";
import { invalidRequest } from "../errors.ts";
import {
  type Body,
  optionalString,
  optionalStrings,
  stringField,
  systemString,
  timeLimitField,
  variablesField,
  systemText,
} from "../fields.ts";
import { languageOf } from "./languages.ts";
import { workdirField } from "./workdir.ts";

/** Something to run: code for the kernel, or a program. */
export interface Job {
  language: string | undefined;
  /** The caller's text, shortened, for lists of processes. */
  title: string;
  /** Undefined if the job runs in the Python kernel. */
  program: { command: string; args: string[]; input?: string } | undefined;
  code: string;
  workdir: string;
  /** Variables of this request only. */
  env: Record<string, string>;
  /** Undefined: no limit. */
  timeoutMs: number | undefined;
}

export interface JobDefaults {
  /** Limit for a request that names none; undefined: no limit. */
  timeoutS: number | undefined;
  /** Uses a new interpreter instead of the kernel: other executions must not wait for the job. */
  isDetached?: boolean;
  language?: string;
}

const TITLE_LENGTH = 200;

export function codeJob(
  config: GuestAgentConfig,
  environment: Environment,
  body: Body,
  defaults: JobDefaults,
): Job {
  // Half a surrogate pair becomes U+FFFD, as it does when text is written to a file: the kernel
  // would refuse it.
  const code = Buffer.from(stringField(body, "code")).toString();
  const asked = defaults.language ?? optionalString(body, "language") ?? "python";
  const common = commonOf(config, body, defaults);
  // The Python kernel runs regardless of this call's search path, so the agent's own path counts
  // too.
  const searchPath = [environment.forProcess(common.env)["PATH"], process.env["PATH"]].join(":");
  const language = languageOf(asked, searchPath, config.helperDir);
  if (language.name === "python") systemText(code, "code");
  const runsInKernel = language.name === "python" && defaults.isDetached !== true;
  return {
    ...common,
    code,
    language: language.name,
    title: titleOf(code),
    program: runsInKernel ? undefined : language.run(code),
  };
}

/** `{command, args}` runs a program; `{command}` without args is a shell line. */
export function commandJob(config: GuestAgentConfig, body: Body, defaults: JobDefaults): Job {
  const command = systemString(body, "command");
  if (command.trim() === "") throw invalidRequest('"command" is empty');
  const args = optionalStrings(body, "args");
  const program =
    args === undefined ? { command: "/bin/sh", args: ["-c", command] } : { command, args };
  const title = titleOf([command, ...(args ?? [])].join(" "));
  return { ...commonOf(config, body, defaults), code: "", language: undefined, title, program };
}

/** The limit in force, as responses and lists show it: seconds, 0 for none. */
export const timeoutOf = ({ timeoutMs }: Job): number => (timeoutMs ?? 0) / 1000;

function commonOf(config: GuestAgentConfig, body: Body, { timeoutS }: JobDefaults) {
  const limitS = timeLimitField(body, "timeout", timeoutS);
  const timeoutMs = limitS === undefined ? undefined : limitS * 1000;
  return { workdir: workdirField(config, body), env: variablesField(body, "env"), timeoutMs };
}

const titleOf = (text: string) =>
  text.length > TITLE_LENGTH ? `${text.slice(0, TITLE_LENGTH)}…` : text;
