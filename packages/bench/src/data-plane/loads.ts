/** Loads on the application, direct or through the edge. */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { Agent, type ClientRequest, type IncomingMessage, request } from "node:http";
import type { Duplex } from "node:stream";
import { sleep } from "@torpor/service";
import type { Load } from "../load/loops.ts";
import type { Tally } from "../load/tally.ts";
import { ECHO_PATH, STREAM_PATH } from "./paths.ts";
import type { Way } from "./ways.ts";

const LIMIT_MS = 30_000;
const MIB = 1_024 ** 2;
const PIECE = Buffer.alloc(64 * 1_024, "y");
const ECHO = Buffer.alloc(1_024, "z");
/** Delay after a failure, so that a dead server is not flooded. */
const AFTER_FAILURE_MS = 100;

/** Each client requests a few bytes at a time, over a connection that stays open. */
export function requestLoad(way: Way, clients: number): Load {
  const agent = new Agent({ keepAlive: true, maxSockets: clients });
  const client = async (tally: Tally, stop: AbortSignal) => {
    while (!stop.aborted) {
      const startedAt = performance.now();
      await attempt(tally, "request", async () => {
        const answer = await answerTo(ask(way, "/", { agent }).end());
        await once(answer.resume(), "end");
        tally.succeeded("request", performance.now() - startedAt);
      });
    }
  };
  const run: Load["run"] = async (tally, stop) =>
    void (await Promise.all(Array.from({ length: clients }, () => client(tally, stop))));
  return { run, close: async () => agent.destroy() };
}

/** One endless response; each received MiB counts as a unit. */
export function downloadLoad(way: Way): Load {
  return streaming(async (tally, stop) => {
    const asked = ask(way, STREAM_PATH, {});
    stop.addEventListener("abort", () => asked.destroy(), { once: true });
    const answer = await answerTo(asked.end());
    const count = mibCounter(tally, "download");
    answer.on("data", (part: Buffer) => count(part.length));
    await once(answer, "end");
  });
}

/** One endless request body; each MiB that the server took counts as a unit. */
export function uploadLoad(way: Way): Load {
  return streaming(async (tally, stop) => {
    const headers = { "transfer-encoding": "chunked" };
    const asked = ask(way, STREAM_PATH, { method: "POST", headers });
    stop.addEventListener("abort", () => asked.destroy(), { once: true });
    const answered = answerTo(asked).then(({ statusCode }) => {
      throw new Error(`a body without an end was answered ${statusCode}`);
    });
    answered.catch(() => {});
    const count = mibCounter(tally, "upload");
    while (!stop.aborted) {
      const isTaken = asked.write(PIECE);
      if (!isTaken) await Promise.race([once(asked, "drain", { signal: stop }), answered]);
      count(PIECE.length);
    }
  });
}

/** One client on an upgraded connection, which sends again once the echo has arrived. */
export function echoLoad(way: Way): Load {
  return streaming(async (tally, stop) => {
    const socket = await upgraded(way);
    stop.addEventListener("abort", () => socket.destroy(), { once: true });
    let [left, echoed] = [0, Promise.withResolvers<void>()];
    socket.on("data", (part: Buffer) => {
      left -= part.length;
      if (left <= 0) echoed.resolve();
    });
    const closed = () => new Error("the connection was closed");
    socket.once("close", () => echoed.reject(closed()));
    while (!stop.aborted) {
      if (socket.destroyed) throw closed();
      [left, echoed] = [ECHO.length, Promise.withResolvers<void>()];
      const startedAt = performance.now();
      socket.write(ECHO);
      await echoed.promise;
      tally.succeeded("echo", performance.now() - startedAt);
    }
  });
}

/** Starts a broken stream again; the break counts as a failure unless the load was stopped. */
function streaming(stream: (tally: Tally, stop: AbortSignal) => Promise<void>): Load {
  const run: Load["run"] = async (tally, stop) => {
    while (!stop.aborted)
      await attempt(
        tally,
        "stream",
        () => stream(tally, stop),
        () => stop.aborted,
      );
  };
  return { run, close: async () => {} };
}

async function attempt(
  tally: Tally,
  kind: string,
  act: () => Promise<void>,
  isStopped = () => false,
): Promise<void> {
  try {
    await act();
  } catch (error) {
    if (isStopped()) return;
    tally.failed(`${kind}: ${error instanceof Error ? error.message : String(error)}`);
    await sleep(AFTER_FAILURE_MS, new AbortController().signal);
  }
}

function mibCounter(tally: Tally, kind: string): (bytes: number) => void {
  let [bytes, sinceMs] = [0, performance.now()];
  return (more) => {
    bytes += more;
    while (bytes >= MIB) {
      const nowMs = performance.now();
      tally.succeeded(kind, nowMs - sinceMs);
      [bytes, sinceMs] = [bytes - MIB, nowMs];
    }
  };
}

function ask(
  { port, headers }: Way,
  path: string,
  more: { agent?: Agent; method?: string; headers?: Record<string, string> },
): ClientRequest {
  const { agent = false, method = "GET" } = more;
  const all = { ...headers, ...more.headers };
  return request({ host: "127.0.0.1", port, path, method, agent, headers: all, timeout: LIMIT_MS });
}

/** Rejects for any status but 200, and for a connection without data for too long. */
async function answerTo(asked: ClientRequest): Promise<IncomingMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  asked.on("response", (answer: IncomingMessage) => {
    if (answer.statusCode === 200) return resolve(answer);
    answer.resume();
    reject(new Error(`answered ${answer.statusCode}`));
  });
  asked.on("timeout", () => asked.destroy(new Error(`nothing came for ${LIMIT_MS / 1_000} s`)));
  asked.on("error", reject);
  return await promise;
}

async function upgraded(way: Way): Promise<Duplex> {
  const key = randomBytes(16).toString("base64");
  const handshake = { "sec-websocket-key": key, "sec-websocket-version": "13" };
  const headers = { connection: "Upgrade", upgrade: "websocket", ...handshake };
  const asked = ask(way, ECHO_PATH, { headers });
  const { promise, resolve, reject } = Promise.withResolvers<Duplex>();
  asked.on("upgrade", (_, socket) => resolve(socket));
  asked.on("response", ({ statusCode }) => reject(new Error(`answered ${statusCode}`)));
  asked.on("error", reject);
  asked.end();
  const socket = await promise;
  socket.on("error", () => socket.destroy());
  return socket;
}
