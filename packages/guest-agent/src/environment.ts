/** The sandbox's global environment variables: set by /env and at create, kept in a root-only file over stop and start, given to every execution. A request's own win over them. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { stringMap } from "./errors.ts";
import type { Route } from "./server.ts";

const SECRET_NAME = /KEY|SECRET|PASSWORD|TOKEN/i;
const MASK = "***MASKED***";

export class Environment {
  private readonly file: string;
  private variables: Record<string, string> = {};

  constructor(file: string) {
    this.file = file;
    this.load();
  }

  /** Reads the file again: it may be on a disk that was not there before. */
  load(): void {
    this.variables = existsSync(this.file) ? (JSON.parse(readFileSync(this.file, "utf8")) as Record<string, string>) : {};
  }

  all(): Record<string, string> {
    return { ...this.variables };
  }

  replace(variables: Record<string, string>): void {
    // A client that reads, edits and writes back sends masks for what it was not shown: they stand for the values (hopx-contract.md, env.delete).
    const kept = Object.entries(variables).map(([name, value]) => [name, value === MASK ? (this.variables[name] ?? value) : value]);
    this.variables = Object.fromEntries(kept) as Record<string, string>;
    mkdirSync(dirname(this.file), { recursive: true, mode: 0o700 });
    writeFileSync(`${this.file}.tmp`, JSON.stringify(this.variables), { mode: 0o600 });
    renameSync(`${this.file}.tmp`, this.file);
  }

  merge(variables: Record<string, string>): void {
    this.replace({ ...this.variables, ...variables });
  }

  /** For the API: names of secrets are shown, their values are not. */
  masked(): Record<string, string> {
    return Object.fromEntries(Object.entries(this.variables).map(([name, value]) => [name, SECRET_NAME.test(name) ? MASK : value]));
  }

  /** For a program: the agent's own few variables, then the global ones, then the request's. */
  forProcess(request: Record<string, string>): Record<string, string> {
    return {
      PATH: process.env["PATH"] ?? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      HOME: "/root",
      LANG: "C.UTF-8",
      TERM: "xterm-256color",
      USER: "root",
      ...this.variables,
      ...request,
    };
  }
}

export function environmentRoutes(environment: Environment): Route[] {
  const reply = () => {
    const variables = environment.masked();
    return { env_vars: variables, count: Object.keys(variables).length, timestamp: new Date().toISOString() };
  };
  const change = (apply: (variables: Record<string, string>) => void) => (request: { body: Record<string, unknown> }) => {
    apply(stringMap(request.body, "env_vars"));
    return reply();
  };
  return [
    { method: "GET", path: "/env", handle: reply },
    { method: "PUT", path: "/env", handle: change((variables) => environment.replace(variables)) },
    {
      method: "PATCH",
      path: "/env",
      handle: (request) =>
        change((variables) => (request.body["merge"] === false ? environment.replace(variables) : environment.merge(variables)))(request),
    },
    {
      method: "DELETE",
      path: "/env",
      handle: () => {
        environment.replace({});
        return reply();
      },
    },
  ];
}
