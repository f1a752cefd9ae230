/** Messages of a WebSocket's client: one JSON object per frame, as text or as bytes. */
import type { WebSocket } from "ws";
import { type AgentError, asAgentError } from "../errors.ts";
import { type Body, parseObject } from "../fields.ts";
import { withLimit } from "../limits.ts";
import type { Frame } from "./lockstep.ts";

export function onMessages(
  socket: WebSocket,
  handle: (body: Body) => void | Promise<void>,
  onError: (error: AgentError) => void,
): void {
  socket.on("message", (data: Buffer) => {
    Promise.resolve()
      .then(() => handle(parseObject(data.toString("utf8"))))
      .catch((error: unknown) => onError(asAgentError(error)));
  });
}

/**
 * The first message; undefined when the client leaves or sends nothing in time. Throws 400 when it
 * is no JSON object.
 */
export async function firstMessage(socket: WebSocket, limitMs: number): Promise<Body | undefined> {
  const text = await withLimit(
    new Promise<string | undefined>((resolve) => {
      socket.once("message", (data: Buffer) => resolve(data.toString("utf8")));
      socket.once("close", () => resolve(undefined));
    }),
    limitMs,
  );
  return text === undefined ? undefined : parseObject(text);
}

export const errorFrame = (error: AgentError): Frame => ({
  type: "error",
  error: error.message,
  message: error.message,
  code: error.code,
});
