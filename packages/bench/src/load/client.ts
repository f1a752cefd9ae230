/**
 * API calls over connections that stay open: cheaper than fetch, so that the load takes little of
 * the processor time.
 */
import { Agent, request } from "node:http";

export interface ClientAnswer {
  status: number;
  text: string;
  ms: number;
}

export type BenchCall = (
  method: string,
  path: string,
  options?: { body?: object; prefer?: string; idempotencyKey?: string },
) => Promise<ClientAnswer>;

export interface BenchClient {
  call: BenchCall;
  close(): void;
}

const LIMIT_MS = 60_000;

/** Returns a response of any status; throws without a response. */
export function createClient({ url, apiKey }: { url: string; apiKey: string }): BenchClient {
  const { hostname, port } = new URL(url);
  const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY });
  const call: BenchCall = (method, path, { body, prefer, idempotencyKey } = {}) => {
    const { promise, resolve, reject } = Promise.withResolvers<ClientAnswer>();
    const startedAt = performance.now();
    const headers = {
      "x-api-key": apiKey,
      ...(body === undefined ? {} : { "content-type": "application/json" }),
      ...(prefer === undefined ? {} : { prefer }),
      ...(idempotencyKey === undefined ? {} : { "idempotency-key": idempotencyKey }),
    };
    const asked = request({ hostname, port, method, path, agent, headers, timeout: LIMIT_MS });
    asked.on("response", (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (part: string) => (text += part));
      response.on("error", reject);
      response.on("end", () =>
        resolve({ status: response.statusCode ?? 0, text, ms: performance.now() - startedAt }),
      );
    });
    const late = () => new Error(`${method} ${path} was not answered within ${LIMIT_MS / 1000} s`);
    asked.on("timeout", () => asked.destroy(late()));
    asked.on("error", reject);
    asked.end(body === undefined ? undefined : JSON.stringify(body));
    return promise;
  };
  return { call, close: () => agent.destroy() };
}
