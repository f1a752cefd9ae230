/**
 * Commands in the lab machine, by ssh over a forwarded loopback port. Its host key is known from
 * its build.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { run } from "@torpor/service";
import type { LabRecord } from "./machine.ts";

const LOGIN = "root@127.0.0.1";
const CONNECT_LIMIT_S = 5;
const LOOK_EVERY_MS = 500;
const STATUS_LIMIT_MS = 60_000;

function sshArgs({ machineDir, ports }: LabRecord): string[] {
  const options = [
    // ssh expects a list of files here, and expands a percent sign.
    `UserKnownHostsFile="${join(machineDir, "known_hosts").replaceAll("%", "%%")}"`,
    "HostKeyAlias=lab",
    "BatchMode=yes",
    `ConnectTimeout=${CONNECT_LIMIT_S}`,
    "ServerAliveInterval=10",
    "LogLevel=ERROR",
  ];
  return [
    "-F",
    "none",
    "-i",
    join(machineDir, "id_ed25519"),
    "-p",
    String(ports.ssh),
    ...options.flatMap((option) => ["-o", option]),
  ];
}

/** Quotes one argument for a shell. */
function quoted(argument: string): string {
  return `'${argument.replaceAll("'", `'\\''`)}'`;
}

/** Uses this process's input and output; returns the exit code. */
export async function execInLab(record: LabRecord, command: string[]): Promise<number> {
  const args = [...sshArgs(record), LOGIN, command.map(quoted).join(" ")];
  const child = spawn("ssh", args, { stdio: "inherit" });
  const [code] = (await once(child, "exit")) as [number | null];
  return code ?? 1;
}

export async function runInLab(
  record: LabRecord,
  script: string,
  signal: AbortSignal,
): Promise<{ code: number; output: string }> {
  return await run(labCommand(record, script), { cwd: "/", isShown: false, signal });
}

/** The command line, on this machine, for a script in the lab machine. */
export function labCommand(record: LabRecord, script: string): string[] {
  return ["ssh", ...sshArgs(record), LOGIN, script];
}

/** /proc/<pid>/status of a process in the machine; empty if there is none. */
export async function statusInLab(record: LabRecord, pid: number): Promise<string> {
  const { code, output } = await runInLab(
    record,
    `cat /proc/${pid}/status`,
    AbortSignal.timeout(STATUS_LIMIT_MS),
  );
  return code === 0 ? output : "";
}

/** Runs an interactive shell; returns its exit code. */
export async function shellInLab(record: LabRecord): Promise<number> {
  const child = spawn("ssh", [...sshArgs(record), "-t", LOGIN], { stdio: "inherit" });
  const [code] = (await once(child, "exit")) as [number | null];
  return code ?? 1;
}

/** Waits until login works. Throws when `isAlive` returns false, or after `limitMs`. */
export async function waitForSsh(
  record: LabRecord,
  isAlive: () => boolean,
  limitMs: number,
  signal: AbortSignal,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    const { code, output } = await runInLab(record, "true", signal);
    if (code === 0) return;
    if (!isAlive()) throw new Error("the lab machine ended while it was starting");
    if (performance.now() > deadline)
      throw new Error(`the lab machine let nobody in within ${limitMs / 1000} s: ${output.trim()}`);
    await sleep(LOOK_EVERY_MS, undefined, { signal });
  }
}
