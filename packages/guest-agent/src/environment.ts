/**
 * The sandbox's global environment variables: kept in a root-only file over stop and start, given
 * to every execution. A request's own win over them.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { AgentError, invalidRequest } from "./errors.ts";
import { envProblemIn } from "./fields.ts";

const SECRET_NAME = /KEY|SECRET|PASSWORD|TOKEN/i;
const MASK = "***MASKED***";

type Variables = Record<string, string>;

export class Environment {
  private readonly file: string;
  private variables: Variables = {};

  constructor(file: string) {
    this.file = file;
    this.load();
  }

  /** Reads the file again: it may be on a disk that was not there before. */
  load(): void {
    this.variables = existsSync(this.file) ? readVariables(this.file) : {};
  }

  all(): Variables {
    return { ...this.variables };
  }

  /** Throws 400 when no program could be started with them, or they cannot be kept. */
  replace(variables: Variables): void {
    // A client that reads, edits and writes back sends masks for what it was not shown: they stand
    // for the values (env.delete of the SDKs).
    const kept = Object.entries(variables).map(([name, value]) => [
      name,
      value === MASK ? (this.variables[name] ?? value) : value,
    ]);
    const next = Object.fromEntries(kept) as Variables;
    const problem = envProblemIn(next, "env_vars");
    if (problem !== undefined) throw invalidRequest(problem);
    this.write(JSON.stringify(next));
    this.variables = next;
  }

  merge(variables: Variables): void {
    this.replace({ ...this.variables, ...variables });
  }

  /** False when there was none. */
  delete(name: string): boolean {
    if (!Object.hasOwn(this.variables, name)) return false;
    this.replace(
      Object.fromEntries(Object.entries(this.variables).filter(([key]) => key !== name)),
    );
    return true;
  }

  /** For the API: names of secrets are shown, their values are not. */
  masked(): Variables {
    return Object.fromEntries(
      Object.entries(this.variables).map(([name, value]) => [
        name,
        SECRET_NAME.test(name) ? MASK : value,
      ]),
    );
  }

  /** For a program: the agent's own few variables, then the global ones, then the request's. */
  forProcess(request: Variables): Variables {
    return {
      PATH: process.env["PATH"] ?? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      HOME: process.env["HOME"] ?? "/root",
      LANG: "C.UTF-8",
      TERM: "xterm-256color",
      USER: "root",
      LOGNAME: "root",
      SHELL: "/bin/bash",
      // Where npm installs for the whole machine; Node.js itself does not look there.
      NODE_PATH: "/usr/local/lib/node_modules",
      ...this.variables,
      ...request,
    };
  }

  private write(text: string): void {
    const temporary = `${this.file}.tmp`;
    try {
      mkdirSync(dirname(this.file), { recursive: true, mode: 0o700 });
      writeFileSync(temporary, text, { mode: 0o600 });
      renameSync(temporary, this.file);
    } catch (cause) {
      rmSync(temporary, { force: true, recursive: true });
      const isFull = (cause as NodeJS.ErrnoException).code === "ENOSPC";
      const reason = isFull ? "the disk is full; remove something first" : (cause as Error).message;
      throw new AgentError(
        400,
        "FILE_OPERATION_FAILED",
        `the variables could not be kept: ${reason}`,
        { cause },
      );
    }
  }
}

/**
 * User code is root and may have written there: what no program could be started with is left out.
 */
function readVariables(file: string): Variables {
  try {
    const entries = Object.entries(
      JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>,
    );
    const usable = Object.fromEntries(
      entries.filter((entry): entry is [string, string] => isUsable(entry)),
    );
    return envProblemIn(usable, "env_vars") === undefined ? usable : {};
  } catch {
    return {};
  }
}

function isUsable([name, value]: [string, unknown]): boolean {
  return typeof value === "string" && envProblemIn({ [name]: value }, "env_vars") === undefined;
}
