/**
 * The sandbox's global environment variables. A root-only file keeps them over stop and start, and
 * every execution gets them. The variables of a request override them.
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

  /** Reads the file again: it may be on a disk that was attached only now. */
  load(): void {
    this.variables = existsSync(this.file) ? readVariables(this.file) : {};
  }

  all(): Variables {
    return { ...this.variables };
  }

  /**
   * Throws 400 when no program could be started with the variables, or when the file cannot be
   * written.
   */
  replace(variables: Variables): void {
    // A client that reads, edits and writes back sends masks for the values that it was not shown.
    // A mask stands for the current value (env.delete of the SDKs).
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

  /** Returns false when there is no such variable. */
  delete(name: string): boolean {
    if (!Object.hasOwn(this.variables, name)) return false;
    this.replace(
      Object.fromEntries(Object.entries(this.variables).filter(([key]) => key !== name)),
    );
    return true;
  }

  /** The view for the API: names of secrets are visible, their values are not. */
  masked(): Variables {
    return Object.fromEntries(
      Object.entries(this.variables).map(([name, value]) => [
        name,
        SECRET_NAME.test(name) ? MASK : value,
      ]),
    );
  }

  /**
   * The variables of a program: the agent's own few, overridden by the global ones, overridden by
   * the request's.
   */
  forProcess(request: Variables): Variables {
    return {
      PATH: process.env["PATH"] ?? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      HOME: process.env["HOME"] ?? "/root",
      LANG: "C.UTF-8",
      TERM: "xterm-256color",
      USER: "root",
      LOGNAME: "root",
      SHELL: "/bin/bash",
      // The directory of `npm install --global`, which Node.js itself does not search.
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
 * Leaves out variables that no program could be started with: user code is root and may have
 * written to the file.
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
