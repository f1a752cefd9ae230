/**
 * Programs of the host that read their steps from standard input (`ip -batch -`, `nft -f -`): one
 * process for many steps.
 */
import { spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

/** Far more than any of these programs takes, also on an emulated host. */
const LIMIT_MS = 60_000;
const MAX_OUTPUT_BYTES = 16 * 1024 ** 2;
/** Directories of ip and nft, also for an agent whose PATH lacks them. */
const SEARCH_PATH = [process.env["PATH"] ?? "", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].join(
  delimiter,
);

export class CommandError extends Error {
  /** Standard error of the program. */
  readonly stderr: string;

  constructor(command: readonly string[], why: string, stderr: string, options?: ErrorOptions) {
    super(
      `${command.slice(0, 4).join(" ")} ${why}${stderr === "" ? "" : `: ${stderr.split("\n").slice(0, 3).join(" | ")}`}`,
      options,
    );
    this.stderr = stderr;
  }
}

/**
 * Runs a program with `input` on its standard input, and returns its standard output. Throws a
 * CommandError if it cannot be run, fails, or takes too long.
 */
export async function command(argv: readonly [string, ...string[]], input = ""): Promise<string> {
  const [program, ...args] = argv;
  const child = spawn(program, args, {
    env: { PATH: SEARCH_PATH, LC_ALL: "C" },
    timeout: LIMIT_MS,
    killSignal: "SIGKILL",
  });
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    stdout += chunk;
    if (stdout.length > MAX_OUTPUT_BYTES) child.kill("SIGKILL");
  });
  child.stderr
    .setEncoding("utf8")
    .on("data", (chunk: string) => (stderr = (stderr + chunk).slice(-4_096)));
  // The program may end without reading all of `input`; its exit code reports the result.
  child.stdin.on("error", () => {});
  child.stdin.end(input);
  return await new Promise((resolve, reject) => {
    child.once("error", (cause) =>
      reject(new CommandError(argv, "cannot be run", cause.message, { cause })),
    );
    child.once("close", (code, signal) => {
      if (code === 0) resolve(stdout);
      else
        reject(
          new CommandError(
            argv,
            code === null ? `was ended by ${signal} (limit ${LIMIT_MS} ms)` : `failed (${code})`,
            stderr.trim(),
          ),
        );
    });
  });
}

/**
 * The same command inside a network namespace; undefined: the agent's own. Only the network
 * changes: mounts that the command makes stay visible.
 */
export function inside(
  namespace: string | undefined,
  argv: readonly [string, ...string[]],
): [string, ...string[]] {
  return namespace === undefined
    ? [...argv]
    : ["nsenter", `--net=/run/netns/${namespace}`, "--", ...argv];
}

export function isInstalled(program: string): boolean {
  return SEARCH_PATH.split(delimiter).some((dir) => {
    try {
      accessSync(join(dir, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
