import { spawn } from "node:child_process";

export interface RunOptions {
  cwd: string;
  /** True: output goes to this process's own output; false: output is collected. */
  isShown: boolean;
  env?: Record<string, string>;
  signal?: AbortSignal;
}

/**
 * Runs a program to its end. Throws only when the program cannot be started or the signal aborts.
 */
export async function run(
  [command = "", ...args]: string[],
  options: RunOptions,
): Promise<{ code: number; output: string }> {
  const { cwd, isShown, env, signal } = options;
  const stream = isShown ? "inherit" : "pipe";
  const child = spawn(command, args, {
    cwd,
    stdio: ["ignore", stream, stream],
    env: { ...process.env, ...env },
  });
  const stop = () => child.kill("SIGTERM");
  signal?.addEventListener("abort", stop, { once: true });
  const chunks: Buffer[] = [];
  child.stdout?.on("data", (chunk: Buffer) => chunks.push(chunk));
  child.stderr?.on("data", (chunk: Buffer) => chunks.push(chunk));
  try {
    const code = await new Promise<number>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (exitCode) => resolve(exitCode ?? 1));
    });
    signal?.throwIfAborted();
    return { code, output: Buffer.concat(chunks).toString("utf8") };
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}
