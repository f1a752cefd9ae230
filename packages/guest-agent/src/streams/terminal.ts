/**
 * WS /terminal: a shell on its own pseudo-terminal (guest/terminal.py). The shell gets a hang-up
 * when the client leaves.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { accessSync } from "node:fs";
import type { Readable } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import type { WebSocket } from "ws";
import type { GuestAgentConfig } from "../config.ts";
import type { Environment } from "../environment.ts";
import { AgentError, invalidRequest } from "../errors.ts";
import { defaultWorkdir } from "../execution/workdir.ts";
import { type Body, integerField, stringField } from "../fields.ts";
import { LockstepSender } from "./lockstep.ts";
import { errorFrame, onMessages } from "./messages.ts";
import type { StreamRequest, WebSocketRoute } from "./upgrades.ts";

const DIMENSION = { from: 1, to: 1000 };
const MAX_INPUT_BYTES = 1024 * 1024;
const CANNOT_START_CODE = 127;

export function terminalRoute(config: GuestAgentConfig, environment: Environment): WebSocketRoute {
  return {
    path: "/terminal",
    handle: (socket, request) => serve(config, environment, socket, request),
  };
}

async function serve(
  config: GuestAgentConfig,
  environment: Environment,
  socket: WebSocket,
  request: StreamRequest,
): Promise<void> {
  const sender = new LockstepSender(socket, request.stream.touch);
  const child = start(config, environment, request.query);
  const exited = exitCodeOf(child);
  socket.once("close", () => child.stdin?.destroy());
  onMessages(
    socket,
    (body) => control(child, body),
    (error) => void sender.send(errorFrame(error)),
  );
  await show(child.stdout as Readable, sender);
  const code = await exited;
  await sender.end({ type: "exit", code, exitCode: code, exit_code: code });
}

function start(
  config: GuestAgentConfig,
  environment: Environment,
  query: URLSearchParams,
): ChildProcess {
  const [columns, rows] = [dimension(query.get("cols"), 80), dimension(query.get("rows"), 24)];
  const shell = isThere("/bin/bash") ? "/bin/bash" : "/bin/sh";
  const args = [
    "-ISu",
    `${config.helperDir}/terminal.py`,
    String(columns),
    String(rows),
    config.userCgroup ?? "",
    shell,
  ];
  const child = spawn(config.python, args, {
    cwd: defaultWorkdir(config),
    env: environment.forProcess({}),
    stdio: ["pipe", "pipe", "inherit"],
  });
  child.stdin?.on("error", () => {});
  return child;
}

/** A senseless size in the query falls back to the default. */
function dimension(text: string | null, fallback: number): number {
  const value = Number(text ?? fallback);
  return Number.isInteger(value) && value >= DIMENSION.from && value <= DIMENSION.to
    ? value
    : fallback;
}

function exitCodeOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve) => {
    child.once("error", () => resolve(CANNOT_START_CODE));
    child.once("exit", (code) => resolve(code ?? 128 + 9));
  });
}

async function show(output: Readable, sender: LockstepSender): Promise<void> {
  const decoder = new StringDecoder("utf8");
  try {
    for await (const chunk of output as AsyncIterable<Buffer>)
      await sender.text("output", decoder.write(chunk));
  } catch {
    // The shell could not be started; its exit code reports that.
  }
  await sender.text("output", decoder.end());
}

function control(child: ChildProcess, body: Body): void {
  const type = stringField(body, "type");
  if (type === "input") write(child, "i", Buffer.from(stringField(body, "data")));
  else if (type === "resize")
    write(
      child,
      "r",
      Buffer.from(
        `${integerField(body, "cols", DIMENSION)} ${integerField(body, "rows", DIMENSION)}`,
      ),
    );
  else throw invalidRequest('"type" must be "input" or "resize"');
}

/**
 * Writes a frame for terminal.py. Input for a program that does not read is refused above a bound,
 * not buffered.
 */
function write(child: ChildProcess, kind: "i" | "r", payload: Buffer): void {
  if (child.stdin === null || child.stdin.destroyed) return;
  if (child.stdin.writableLength + payload.length > MAX_INPUT_BYTES)
    throw new AgentError(
      429,
      "RESOURCE_LIMIT_ERROR",
      `the program does not read: ${payload.length} bytes of input were dropped`,
    );
  const header = Buffer.alloc(5);
  header.write(kind, 0, "latin1");
  header.writeUInt32BE(payload.length, 1);
  child.stdin.write(Buffer.concat([header, payload]));
}

function isThere(path: string): boolean {
  try {
    accessSync(path);
    return true;
  } catch {
    return false;
  }
}
