/**
 * WS /files/watch: changes below a path, as they happen (guest/watcher.py). One connection may
 * watch several paths.
 */
import type { WebSocket } from "ws";
import type { GuestAgentConfig } from "../config.ts";
import { invalidRequest, tooMany } from "../errors.ts";
import { type Body, stringField } from "../fields.ts";
import { withFileErrors } from "../files/file-errors.ts";
import { locate } from "../files/paths.ts";
import { stat } from "node:fs/promises";
import { type LineMessage, LineProcess } from "../line-process.ts";
import { type Frame, LockstepSender } from "./lockstep.ts";
import { errorFrame, onMessages } from "./messages.ts";
import type { StreamRequest, WebSocketRoute } from "./upgrades.ts";

const MAX_PATHS = 16;

export function watchRoute(config: GuestAgentConfig): WebSocketRoute {
  return { path: "/files/watch", handle: (socket, request) => serve(config, socket, request) };
}

async function serve(
  config: GuestAgentConfig,
  socket: WebSocket,
  request: StreamRequest,
): Promise<void> {
  const sender = new LockstepSender(socket, request.stream.touch);
  // The watcher is read at the client's pace. Events that exceed the kernel's queue in the meantime
  // are reported as EVENTS_LOST.
  const watcher = new LineProcess(config.python, ["-ISu", `${config.helperDir}/watcher.py`], {
    onEvent: (message) =>
      sender.send(
        frameOf(message),
        // A client that has not yet received a `modified` of a path gets no second one.
        message["event"] === "modified" ? String(message["path"]) : undefined,
      ),
  });
  const paths = new Set<string>();
  onMessages(
    socket,
    async (body) => watcher.tell(await requestOf(config, body, paths)),
    (error) => void sender.send(errorFrame(error)),
  );
  const closed = new Promise<void>((resolve) => void socket.once("close", () => resolve()));
  await Promise.race([closed, watcher.ended]);
  watcher.kill();
  if (sender.isOpen)
    await sender.end({
      type: "error",
      error: "the watcher ended; connect again",
      code: "WATCH_ENDED",
    });
}

/** The watcher's request: the path in bytes, since a name may be no text, and the text to show. */
async function requestOf(config: GuestAgentConfig, body: Body, paths: Set<string>): Promise<Body> {
  if (stringField(body, "action") !== "watch") throw invalidRequest('"action" must be "watch"');
  const { bytes, shown } = await locate(config, stringField(body, "path"));
  await withFileErrors(shown, () => stat(bytes));
  if (!paths.has(shown) && paths.size >= MAX_PATHS)
    throw tooMany(`${MAX_PATHS} paths are watched on this connection already`);
  paths.add(shown);
  return { path: bytes.toString("base64"), shown };
}

function frameOf(message: LineMessage): Frame {
  const { event, path, old_path: oldPath, is_dir: isDirectory } = message;
  if (event === "watching") return { type: "watching", path };
  if (event === "error")
    return {
      type: "error",
      error: message["message"],
      message: message["message"],
      code: message["code"],
      path,
    };
  return {
    type: "change",
    path,
    event,
    is_dir: isDirectory,
    ...(oldPath === undefined ? {} : { old_path: oldPath }),
  };
}
