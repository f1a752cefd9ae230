/**
 * The API client against servers that respond as Cloud Hypervisor was seen to, correctly and not.
 */
import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import { tempDir } from "@torpor/testkit";
import { describe, expect, test } from "vitest";
import {
  type CloudHypervisorApi,
  cloudHypervisorApi,
  explain,
} from "../../src/drivers/cloud-hypervisor/api.ts";

/** Runs `body` against a server that handles the request of each connection with `answer`. */
async function against(
  answer: (request: string, socket: Socket, at: number) => void,
  body: (api: CloudHypervisorApi, requests: string[]) => Promise<void>,
): Promise<void> {
  await using dir = await tempDir();
  const requests: string[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.setEncoding("utf8").once("data", (text: string) => {
      requests.push(text);
      answer(text, socket, requests.length);
    });
  });
  server.listen(join(dir.path, "api.sock"));
  await once(server, "listening");
  try {
    await body(cloudHypervisorApi(join(dir.path, "api.sock")), requests);
  } finally {
    for (const socket of sockets) socket.destroy();
    server.close();
  }
}

function reply(status: string, body: string): string {
  return `HTTP/1.1 ${status}\r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}

describe("Cloud Hypervisor's API", () => {
  test("API1: a call without a body has none, one with a body says how long it is, and each has a connection of its own", async () => {
    await against(
      (_request, socket) =>
        socket.write(
          "HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n",
        ),
      async (api, requests) => {
        expect(await api.pause(1_000)).toEqual({ kind: "ok", value: undefined });
        expect(await api.snapshot("out", 1_000)).toEqual({ kind: "ok", value: undefined });
        expect(requests[0]).toMatch(
          /^PUT \/api\/v1\/vm\.pause HTTP\/1\.1\r\n[\s\S]*content-length: 0\r\n\r\n$/i,
        );
        expect(requests[1]).toMatch(
          /\r\ncontent-length: 32\r\n\r\n\{"destination_url":"file:\/\/out"\}$/i,
        );
      },
    );
  });

  test("a refusal is the chain of errors, whatever its status", async () => {
    const chain = ["Error from API", "The VM could not be paused", "VM is not running"];
    await against(
      (_request, socket) => socket.write(reply("500 ", JSON.stringify(chain))),
      async (api) => {
        const outcome = await api.pause(1_000);
        expect(outcome).toEqual({ kind: "refused", status: 500, chain });
        expect(outcome.kind !== "ok" && explain(outcome)).toBe(
          "Error from API: The VM could not be paused: VM is not running (500)",
        );
      },
    );
  });

  test("an error of the HTTP layer that is not JSON is said as it is", async () => {
    const body = '{ "error": "Invalid HTTP Method\n: POST" }';
    await against(
      (_request, socket) => socket.write(reply("400 ", body)),
      async (api) => {
        expect(await api.info(1_000)).toEqual({ kind: "refused", status: 400, chain: [body] });
      },
    );
  });

  test("503 of too many connections is asked again, until the limit", async () => {
    await against(
      (_request, socket, at) =>
        socket.end(
          at < 3
            ? "HTTP/1.1 503 \r\nContent-Length: 0\r\n\r\n"
            : reply("200 ", '{"pid":7,"version":"53.0.0"}'),
        ),
      async (api, requests) => {
        expect(await api.ping(5_000)).toMatchObject({ kind: "ok", value: { pid: 7 } });
        expect(requests).toHaveLength(3);
      },
    );
    await against(
      (_request, socket) => socket.end("HTTP/1.1 503 \r\nContent-Length: 0\r\n\r\n"),
      async (api) => {
        expect(await api.ping(100)).toMatchObject({ kind: "refused", status: 503 });
      },
    );
  });

  test("API2: no answer ends at the limit, and a connection that closes without one is no refusal", async () => {
    await against(
      () => {},
      async (api) => {
        expect(await api.info(50)).toEqual({ kind: "timeout", limitMs: 50 });
      },
    );
    await against(
      (_request, socket) => socket.destroy(),
      async (api) => {
        expect(await api.snapshot("out", 1_000)).toMatchObject({ kind: "unreachable" });
      },
    );
    expect(await cloudHypervisorApi("/nowhere/api.sock").ping(1_000)).toMatchObject({
      kind: "unreachable",
    });
  });

  test("API3: an answer that is cut, endless or no JSON where JSON was asked for is no answer", async () => {
    await against(
      (_request, socket) => socket.end('HTTP/1.1 200 \r\nContent-Length: 100\r\n\r\n{"config":'),
      async (api) => {
        expect(await api.info(1_000)).toMatchObject({ kind: "unreachable" });
      },
    );
    await against(
      (_request, socket) => {
        socket.write("HTTP/1.1 200 \r\nContent-Length: 1073741824\r\n\r\n");
        const more = () =>
          socket.write(Buffer.alloc(65_536), (error) =>
            error === null || error === undefined ? more() : undefined,
          );
        more();
      },
      async (api) => {
        expect(await api.info(5_000)).toMatchObject({
          kind: "unreachable",
          reason: expect.stringContaining("longer than") as string,
        });
      },
    );
    await against(
      (_request, socket) => socket.write(reply("200 ", "well")),
      async (api) => {
        expect(await api.info(1_000)).toMatchObject({
          kind: "unreachable",
          reason: "the answer is not JSON: well",
        });
      },
    );
  });
});
