import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

type Report = { ok: boolean } & Record<string, unknown>;

/**
 * Serves GET /health with the result of `report`, which never throws: 200, or 503 when `ok` is
 * false.
 */
export async function startHealthServer(
  address: { host: string; port: number },
  report: () => Report | Promise<Report>,
): Promise<{ port: number; close(): Promise<void> }> {
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    const isHealth = request.method === "GET" && request.url === "/health";
    const body = isHealth ? await report() : { ok: false, error: "there is only GET /health here" };
    const text = Buffer.from(JSON.stringify(body));
    response.writeHead(isHealth ? (body.ok ? 200 : 503) : 404, {
      "content-type": "application/json",
      "content-length": text.length,
      connection: "close",
    });
    response.end(text);
  };
  const server = createServer((request, response) => void answer(request, response));
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(address.port, address.host, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
