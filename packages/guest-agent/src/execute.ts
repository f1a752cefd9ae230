/** POST /execute and /commands/*: a failing program is an answer (200, success false), not an error of the API. */
import { existsSync } from "node:fs";
import type { Config } from "./config.ts";
import type { Environment } from "./environment.ts";
import { AgentError, invalidRequest, optionalString, secondsField, stringField, stringMap } from "./errors.ts";
import type { PythonKernel } from "./python-kernel.ts";
import { type ProcessResult, runProcess } from "./run-process.ts";
import type { Request, Route } from "./server.ts";

const LANGUAGES: Record<string, "python" | "javascript" | "bash"> = {
  python: "python",
  python3: "python",
  javascript: "javascript",
  js: "javascript",
  node: "javascript",
  nodejs: "javascript",
  bash: "bash",
  sh: "bash",
  shell: "bash",
};
const EXECUTE_TIMEOUT_S = 120;
const COMMAND_TIMEOUT_S = 120;
const MAX_TIMEOUT_S = 24 * 3600;

export interface ExecuteDeps {
  config: Config;
  environment: Environment;
  kernel: PythonKernel;
}

export function executeRoutes(deps: ExecuteDeps): Route[] {
  return [
    { method: "POST", path: "/execute", handle: (request) => execute(deps, request) },
    { method: "POST", path: "/execute/rich", handle: (request) => execute(deps, request) },
    { method: "POST", path: "/commands/run", handle: (request) => runCommand(deps, request) },
  ];
}

async function execute(deps: ExecuteDeps, request: Request) {
  const code = stringField(request.body, "code");
  const asked = optionalString(request.body, "language") ?? "python";
  const language = LANGUAGES[asked.toLowerCase()];
  if (language === undefined) throw invalidRequest(`this template cannot run "${asked}"; it runs python, javascript and bash`);
  const timeoutMs = secondsField(request.body, "timeout", EXECUTE_TIMEOUT_S, MAX_TIMEOUT_S) * 1000;
  const workdir = workdirOf(deps.config, request.body);
  const env = stringMap(request.body, "env");
  if (language === "python") {
    const cell = await deps.kernel.run({ code, timeoutMs, workdir, env: { ...deps.environment.all(), ...env } });
    return { ...reply(cell.stdout, cell.stderr, cell.exitCode, cell.durationMs), language, ...richFields(cell.rich) };
  }
  const program = language === "javascript" ? { command: "node", args: ["-"] } : { command: "bash", args: ["-s"] };
  const result = await spawnProgram(deps, { ...program, input: code, workdir, env, timeoutMs, signal: request.signal });
  return { ...reply(result.stdout, result.stderr, result.exitCode, result.durationMs), language };
}

/** Two forms: `{command, args}` runs a program, `{command}` alone is a whole shell line. */
async function runCommand(deps: ExecuteDeps, request: Request) {
  const command = stringField(request.body, "command");
  const args = request.body["args"] ?? undefined;
  if (args !== undefined && !(Array.isArray(args) && args.every((arg) => typeof arg === "string")))
    throw invalidRequest('"args" must be an array of strings');
  const timeoutMs = secondsField(request.body, "timeout", COMMAND_TIMEOUT_S, MAX_TIMEOUT_S) * 1000;
  const workdir = workdirOf(deps.config, request.body);
  const program = args === undefined ? { command: "/bin/sh", args: ["-c", command] } : { command, args };
  const result = await spawnProgram(deps, { ...program, workdir, env: stringMap(request.body, "env"), timeoutMs, signal: request.signal });
  return {
    ...reply(result.stdout, result.stderr, result.exitCode, result.durationMs),
    command,
    ...(result.pid === undefined ? {} : { pid: result.pid }),
  };
}

interface Program {
  command: string;
  args: string[];
  input?: string;
  workdir: string;
  env: Record<string, string>;
  timeoutMs: number;
  signal: AbortSignal;
}

function spawnProgram(deps: ExecuteDeps, program: Program): Promise<ProcessResult> {
  return runProcess({
    command: program.command,
    args: program.args,
    input: program.input,
    cwd: program.workdir,
    env: deps.environment.forProcess(program.env),
    timeoutMs: program.timeoutMs,
    maxOutputBytes: deps.config.maxOutputBytes,
    userCgroup: deps.config.userCgroup,
    signal: program.signal,
  });
}

function workdirOf(config: Config, body: Record<string, unknown>): string {
  const workdir = optionalString(body, "workdir") ?? optionalString(body, "working_dir") ?? config.workdir;
  if (!existsSync(workdir))
    throw new AgentError(400, "DIRECTORY_NOT_FOUND", `the working directory ${workdir} does not exist`, { path: workdir });
  return workdir;
}

function reply(stdout: string, stderr: string, exitCode: number, durationMs: number) {
  return {
    success: exitCode === 0,
    stdout,
    stderr,
    exit_code: exitCode,
    execution_time: durationMs / 1000,
    timestamp: new Date().toISOString(),
  };
}

function richFields(rich: Record<string, unknown>): Record<string, unknown> {
  const { text, ...others } = rich;
  return { ...others, ...(text === undefined ? {} : { result: text }) };
}
