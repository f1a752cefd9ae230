/**
 * WS /execute/stream and similar paths: one execution per connection. Sends its output as it
 * arrives, then `result`, then `complete`. A client that leaves ends its execution.
 */
import { StringDecoder } from "node:string_decoder";
import type { WebSocket } from "ws";
import type { GuestAgentConfig } from "../config.ts";
import type { Environment } from "../environment.ts";
import { asAgentError, invalidRequest } from "../errors.ts";
import type { Body } from "../fields.ts";
import type { Display, OutputSink, StreamName } from "../execution/output.ts";
import { codeJob, commandJob, type Job, timeoutOf } from "../execution/request.ts";
import type { Runner } from "../execution/runner.ts";
import { LockstepSender } from "./lockstep.ts";
import { errorFrame, firstMessage } from "./messages.ts";
import type { StreamRequest, WebSocketRoute } from "./upgrades.ts";

export interface ExecuteStreamDeps {
  config: GuestAgentConfig;
  environment: Environment;
  runner: Runner;
}

const FIRST_MESSAGE_LIMIT_MS = 60_000;
const TIMEOUT_S = 60;
const COMMAND_TIMEOUT_S = 120;

export function executeStreamRoutes(deps: ExecuteStreamDeps): WebSocketRoute[] {
  const { config, environment } = deps;
  const code = (language?: string) => (body: Body) =>
    codeJob(config, environment, body, {
      timeoutS: TIMEOUT_S,
      ...(language === undefined ? {} : { language }),
    });
  const command = (body: Body) => commandJob(config, body, { timeoutS: COMMAND_TIMEOUT_S });
  const route = (path: string, jobOf: (body: Body) => Job): WebSocketRoute => ({
    path,
    handle: (socket, request) => serve(deps, jobOf, socket, request),
  });
  return [
    route("/execute/stream", code()),
    route("/stream", code()),
    route("/stream/ipython", code("python")),
    route("/commands/stream", command),
  ];
}

async function serve(
  deps: ExecuteStreamDeps,
  jobOf: (body: Body) => Job,
  socket: WebSocket,
  request: StreamRequest,
): Promise<void> {
  const sender = new LockstepSender(socket, request.stream.touch);
  let success = false;
  try {
    const message = await firstMessage(socket, FIRST_MESSAGE_LIMIT_MS);
    if (message === undefined)
      throw invalidRequest(`nothing to execute was sent within ${FIRST_MESSAGE_LIMIT_MS / 1000} s`);
    success = await execute(deps, jobOf(message), sender, request.signal);
  } catch (error) {
    await sender.send(errorFrame(asAgentError(error)));
  }
  await sender.end({ type: "complete", success });
}

async function execute(
  { runner }: ExecuteStreamDeps,
  job: Job,
  sender: LockstepSender,
  signal: AbortSignal,
): Promise<boolean> {
  const sink = new StreamSink(sender);
  const end = await runner.start(job, { sink, signal });
  await sink.flush();
  if (end.timedOut) {
    const error = `the time limit of ${timeoutOf(job)} s was reached`;
    await sender.send({ type: "error", error, message: error, code: "EXECUTION_TIMEOUT" });
  }
  await sender.send({
    type: "result",
    exit_code: end.exitCode,
    execution_time: end.durationMs / 1000,
    timeout: timeoutOf(job),
  });
  return end.exitCode === 0;
}

/** Decodes bytes to text: a character may be split over two reads. */
class StreamSink implements OutputSink {
  private readonly sender: LockstepSender;
  private readonly decoders = {
    stdout: new StringDecoder("utf8"),
    stderr: new StringDecoder("utf8"),
  };

  constructor(sender: LockstepSender) {
    this.sender = sender;
  }

  async write(name: StreamName, data: Buffer | string): Promise<void> {
    await this.sender.text(name, typeof data === "string" ? data : this.decoders[name].write(data));
  }

  async display({ data, displayId, isUpdate }: Display): Promise<void> {
    const id = displayId === undefined ? {} : { display_id: displayId, is_update: isUpdate };
    await this.sender.send({ type: "rich_output", data, ...id });
  }

  async clear(wait: boolean): Promise<void> {
    await this.sender.send({ type: "clear_output", wait });
  }

  async flush(): Promise<void> {
    for (const name of ["stdout", "stderr"] as const)
      await this.sender.text(name, this.decoders[name].end());
  }
}
