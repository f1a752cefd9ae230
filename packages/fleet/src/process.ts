/**
 * Components as detached processes: they outlive the command that started them. Later commands find
 * them by pid, start time and boot.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { openDatabase, pingDatabase } from "@torpor/db";
import {
  identify,
  isAlive,
  type ProcessIdentity,
  signalProcess,
  waitUntilGone,
} from "@torpor/service";
import type { Component } from "./state.ts";

const KILL_LIMIT_MS = 10_000;
const LOOK_EVERY_MS = 50;
const HEALTH_FILE_LIMIT_MS = 3_000;

/** Throws when the program cannot run at all. */
export async function startProcess(component: Component): Promise<ProcessIdentity> {
  const log = openSync(component.log, "a", 0o600);
  try {
    const child = spawn(component.command, component.args, {
      cwd: "/",
      detached: true,
      stdio: ["ignore", log, log],
      env: component.env,
    });
    await once(child, "spawn");
    child.unref();
    const identity = child.pid === undefined ? undefined : identify(child.pid);
    if (identity === undefined) throw new Error("it ended at once");
    return identity;
  } catch (cause) {
    throw new Error(
      `${component.name} (${component.command}) cannot be started: ${cause instanceof Error ? cause.message : String(cause)}`,
      { cause },
    );
  } finally {
    closeSync(log);
  }
}

/** Sends the signal, waits `graceMs`, then kills. */
export async function stopProcess(
  identity: ProcessIdentity,
  signal: NodeJS.Signals,
  graceMs: number,
): Promise<void> {
  signalProcess(identity, signal);
  if (await waitUntilGone(identity, graceMs)) return;
  signalProcess(identity, "SIGKILL");
  if (!(await waitUntilGone(identity, KILL_LIMIT_MS)))
    throw new Error(`process ${identity.pid} cannot be ended: it may hang in the kernel`);
}

export type Health =
  | { kind: "healthy"; facts: Record<string, unknown> }
  | { kind: "unhealthy"; reason: string }
  | { kind: "down" };

export async function healthOf(component: Component, limitMs = 3_000): Promise<Health> {
  if (component.process === undefined || !isAlive(component.process)) return { kind: "down" };
  try {
    if (component.healthFile !== undefined) return await freshnessOf(component.healthFile);
    if (component.healthUrl === undefined) {
      await tcpConnect(component.address, limitMs);
      return { kind: "healthy", facts: {} };
    }
    if (component.role === "postgres") {
      await queryDatabase(component.healthUrl);
      return { kind: "healthy", facts: {} };
    }
    const response = await fetch(component.healthUrl, { signal: AbortSignal.timeout(limitMs) });
    const facts = (await response.json()) as Record<string, unknown>;
    const isHealthy = response.ok && facts["status"] !== "degraded";
    return isHealthy
      ? { kind: "healthy", facts }
      : { kind: "unhealthy", reason: JSON.stringify(facts) };
  } catch (error) {
    return { kind: "unhealthy", reason: reasonOf(error, limitMs) };
  }
}

function reasonOf(error: unknown, limitMs: number): string {
  if (!(error instanceof Error)) return String(error);
  return error.name === "TimeoutError" || error.name === "AbortError"
    ? `it did not answer within ${limitMs / 1000} s`
    : error.message;
}

async function freshnessOf(file: string): Promise<Health> {
  const ageMs = Date.now() - (await stat(file)).mtimeMs;
  return ageMs <= HEALTH_FILE_LIMIT_MS
    ? { kind: "healthy", facts: {} }
    : { kind: "unhealthy", reason: `it has not written ${file} for ${Math.round(ageMs / 1000)} s` };
}

/**
 * Waits until the component is healthy. Throws, with its last log line, when it ends or takes
 * longer than `limitMs`.
 */
export async function waitHealthy(
  component: Component,
  limitMs: number,
  signal: AbortSignal,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    const health = await healthOf(component);
    if (health.kind === "healthy") return;
    signal.throwIfAborted();
    if (health.kind === "down")
      throw new Error(`${component.name} ended while it was starting: ${lastLogLine(component)}`);
    if (performance.now() > deadline)
      throw new Error(
        `${component.name} was not healthy within ${limitMs / 1000} s: ${lastLogLine(component)}`,
      );
    await sleep(LOOK_EVERY_MS);
  }
}

/** The newest log line with an error, or else the newest line. */
function lastLogLine(component: Component): string {
  const lines = readFileSync(component.log, "utf8").trim().split("\n").slice(-50).toReversed();
  const telling =
    lines.find((line) => /"level":"(error|fatal)"|FATAL|\[FTL\]|ERROR|PANIC/.test(line)) ??
    lines[0] ??
    "";
  return `${readable(telling)} (log: ${component.log})`;
}

function readable(line: string): string {
  try {
    const { msg, err } = JSON.parse(line) as { msg?: string; err?: { message?: string } };
    return [msg, err?.message].filter((part) => part !== undefined).join(": ");
  } catch {
    return line.trim() || "it said nothing";
  }
}

/** Runs a query: a database that starts up accepts connections before it can reply. */
async function queryDatabase(url: string): Promise<void> {
  const database = openDatabase(url, { maxConnections: 1 });
  try {
    await pingDatabase(database.db);
  } finally {
    await database.close();
  }
}

async function tcpConnect(address: string, limitMs: number): Promise<void> {
  const { hostname, port } = new URL(`tcp://${address}`);
  const socket = connect(Number(port), hostname);
  try {
    await once(socket, "connect", { signal: AbortSignal.timeout(limitMs) });
  } finally {
    socket.destroy();
  }
}
