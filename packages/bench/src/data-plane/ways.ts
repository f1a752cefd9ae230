/** How to reach a sandbox through the edge, below a domain that no resolver knows. */
import { request } from "node:http";
import { text } from "node:stream/consumers";
import type { ClientAnswer } from "../load/client.ts";

/** A way to a server; the edge finds the sandbox and its port by `Host`. */
export interface Way {
  port: number;
  headers: Record<string, string>;
}

/** A way to the agent in a sandbox. */
export interface SandboxWay extends Way {
  id: string;
}

const LIMIT_MS = 60_000;

/** `answer`: body of the response to a create. */
export function openedBy(answer: string, edgePort: number): SandboxWay {
  const { id, public_host, auth_token } = JSON.parse(answer) as Record<
    "id" | "public_host" | "auth_token",
    string
  >;
  const headers = { host: new URL(public_host).host, authorization: `Bearer ${auth_token}` };
  return { id, port: edgePort, headers };
}

/** A way to another port of the same sandbox. */
export function toPort({ port, headers }: Way, guestPort: number): Way {
  const host = headers["host"]?.replace(/^\d+-/, `${guestPort}-`) ?? "";
  return { port, headers: { ...headers, host } };
}

export const getFrom = (way: Way, path: string) => send(way, "GET", path);
export const postTo = (way: Way, path: string, body: string) => send(way, "POST", path, body);

/** Returns a response of any status; throws without a response. */
async function send(way: Way, method: string, path: string, body?: string): Promise<ClientAnswer> {
  const { promise, resolve, reject } = Promise.withResolvers<ClientAnswer>();
  const startedAt = performance.now();
  const length = body === undefined ? {} : { "content-length": Buffer.byteLength(body) };
  const type = body === undefined ? {} : { "content-type": "application/json" };
  const where = { host: "127.0.0.1", port: way.port, path, method, timeout: LIMIT_MS };
  const asked = request({ ...where, headers: { ...way.headers, ...type, ...length } });
  asked.on("error", reject);
  const late = () => new Error(`${method} ${path} was not answered within ${LIMIT_MS / 1_000} s`);
  asked.on("timeout", () => asked.destroy(late()));
  asked.on("response", (response) => {
    const status = response.statusCode ?? 0;
    const done = (said: string) =>
      resolve({ status, text: said, ms: performance.now() - startedAt });
    text(response).then(done, reject);
  });
  asked.end(body);
  return await promise;
}
