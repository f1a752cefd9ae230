/**
 * Attacks of clients that reach the API or a sandbox's address: strangers, tenants, and an
 * operator's mistake.
 */
import { once } from "node:events";
import { createServer, request as httpRequest, type RequestOptions } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { claimPort } from "@torpor/service";
import { runCode, until } from "@torpor/testkit";
import type { ClientAttack } from "./attacks.ts";
import { often } from "./often.ts";
import { assertThat, eventsOf, HONEST_HOST, type Target, type Tried, type Try } from "./target.ts";

const REQUEST_LIMIT_MS = 30_000;
const KIB = 1024;

interface Answer {
  status: number;
  body: { code?: string; content?: string };
  headers: Record<string, unknown>;
}

/**
 * Sends a request over a connection of its own. A gateway sees one address for all of this machine.
 */
async function send(url: URL | string, options: RequestOptions = {}): Promise<Answer> {
  const request = httpRequest(url, { agent: false, timeout: REQUEST_LIMIT_MS, ...options });
  request.end();
  const [answer] = await once(request, "response");
  const content = await text(answer);
  const body = (content.startsWith("{") ? JSON.parse(content) : { content }) as Answer["body"];
  return { status: Number(answer.statusCode), body, headers: answer.headers };
}

const doors = ({ fleet, sandbox }: Target) => [
  new URL("/v1/sandboxes", fleet.url),
  new URL("/execute", sandbox.public_host),
];

/** Keeps the sockets of `open` until the signal. Returns the number that were closed before it. */
async function hold(signal: AbortSignal, open: () => Socket[]): Promise<number> {
  let closed = 0;
  const sockets = open();
  for (const socket of sockets) {
    socket.on("error", () => {});
    socket.once("close", () => (closed += signal.aborted ? 0 : 1));
  }
  if (!signal.aborted) await once(signal, "abort");
  for (const socket of sockets) socket.destroy();
  return closed;
}

const connectTo = (door: URL) => connect({ host: door.hostname, port: Number(door.port) });

const isJsonRefusal = (answer: string, status: number, code: string) =>
  answer.startsWith(`HTTP/1.1 ${status} `) &&
  /x-request-id: req_/i.test(answer) &&
  answer.includes(`"code":"${code}"`);

/** Guesses credentials: the response is 401, and 429 after too many guesses. */
function guessing(perSecond: number, guess: (at: number) => Promise<Answer>) {
  const statuses = new Set<number>();
  return {
    during: (signal: AbortSignal) =>
      often(perSecond, signal, async (at) => {
        const answer = await guess(at);
        assertThat(answer.status === 401 || answer.status === 429, "a guess was answered", answer);
        statuses.add(answer.status);
      }),
    check: async () => {
      const isBoth = statuses.has(401) && statuses.has(429);
      assertThat(isBoth, "guesses were not counted", [...statuses]);
    },
  };
}

/** Sends requests that all get the same status. */
const answered = (
  status: number,
  perSecond: number,
  ask: (at: number) => Promise<{ status: number }>,
): Tried => ({
  during: (signal) =>
    often(perSecond, signal, async (at) => {
      const answer = await ask(at);
      assertThat(answer.status === status, `it was not answered ${status}`, answer);
    }),
  check: async () => {},
});

export const BY_CLIENTS: Record<ClientAttack, Try> = {
  streams: async ({ control }) => {
    const { streams } = await control.manager();
    return {
      during: (signal) =>
        often(1, signal, async () => {
          // The stream may not exist again yet.
          await streams.delete("EVENTS").catch(() => {});
        }),
      check: async () => {
        const isThere = () =>
          streams.info("EVENTS").then(
            () => true,
            () => false,
          );
        await until("it is made again", isThere);
      },
    };
  },

  operatorRoutes: async (target) => {
    const { fleet, tenantKey: apiKey, sandbox } = target;
    const routes = [
      ["GET", "/v1/hosts"],
      ["POST", `/v1/hosts/${HONEST_HOST}/cordon`],
      ["POST", `/v1/hosts/${HONEST_HOST}/drain`],
      ["POST", `/v1/hosts/${HONEST_HOST}/findings/${sandbox.id}/discard`],
      ["GET", "/v1/audit"],
      ["GET", "/v1/host-admissions"],
      ["DELETE", `/v1/host-admissions/${HONEST_HOST}`],
    ] as const;
    const tried = answered(403, 50, async (at) => {
      const [method, path] = routes[at % routes.length] ?? routes[0];
      return await fleet.call(method, path, { apiKey, ...(method === "POST" ? { body: {} } : {}) });
    });
    return {
      ...tried,
      check: async () => {
        const host = await fleet.client.hosts.get(HONEST_HOST);
        assertThat(host.state === "ready" && host.drain === null, "the host was changed", host);
      },
    };
  },

  foreign: async (target) => {
    const { fleet, tenantKey: apiKey, sandbox } = target;
    const path = `/v1/sandboxes/${sandbox.id}`;
    const routes = [
      ["GET", path],
      ["POST", `${path}/pause`],
      ["GET", `${path}/events`],
      ["DELETE", path],
    ] as const;
    const tried = answered(404, 50, async (at) => {
      const [method, to] = routes[at % routes.length] ?? routes[0];
      return await fleet.call(method, to, { apiKey });
    });
    return {
      ...tried,
      check: async () => {
        const deleted = (await eventsOf(target, sandbox)).filter(({ to }) => to === "deleted");
        assertThat(deleted.length === 0, "it was deleted", deleted);
      },
    };
  },

  lists: async ({ fleet, tenantKey: apiKey }) =>
    answered(200, 30, () => fleet.call("GET", "/v1/sandboxes", { apiKey })),

  parameters: async ({ fleet, tenantKey: apiKey }) =>
    answered(400, 50, () => fleet.call("GET", "/v1/sandboxes?metdata[job]=a", { apiKey })),

  variables: async ({ fleet, tenantKey: apiKey }) => {
    const env_vars = { LARGE: "x".repeat(1_000 * KIB) };
    const rawBody = JSON.stringify({ template_name: "code-interpreter", env_vars });
    return {
      ...answered(400, 5, () => fleet.call("POST", "/v1/sandboxes", { apiKey, rawBody })),
      check: async () => {
        const theirs = await Array.fromAsync(fleet.clientOf(apiKey).sandboxes.list());
        assertThat(theirs.length === 0, "something was written", theirs);
      },
    };
  },

  keys: async ({ fleet }) =>
    guessing(100, (at) =>
      send(new URL("/v1/sandboxes", fleet.url), {
        headers: { "x-api-key": `torpor_live_${at}` },
      }),
    ),

  links: async (target) => {
    const { fleet } = target;
    const { port } = await claimPort();
    const app = createServer((_, response) => response.end("inside"));
    await once(app.listen(0, "127.0.0.1"), "listening");
    const sandbox = await target.create({ preview_access: "token" });
    await runCode(sandbox, `port_${port} = ${(app.address() as AddressInfo).port}`);
    const url = `http://${new URL(sandbox.public_host).hostname}:${port}/`;
    await until("the port is served", () =>
      send(url).then(
        () => true,
        () => false,
      ),
    );
    const tried = guessing(100, (at) => send(`${url}?torpor_preview=guess-${at}`));
    return {
      ...tried,
      check: async () => {
        await tried.check();
        const authorization = `Bearer ${sandbox.auth_token}`;
        const passed = await send(url, { headers: { authorization } });
        assertThat(passed.status === 200, "who has a token does not pass", passed);
        await fleet.client.sandboxes.delete(sandbox.id);
        app.close();
      },
    };
  },

  connections: async (target) => {
    let closed = 0;
    const open = () =>
      doors(target).flatMap((door) => Array.from({ length: 600 }, () => connectTo(door)));
    return {
      during: async (signal) => void (closed += await hold(signal, open)),
      check: async () => {
        // Both entrances close the connections over the limit of 512, in at least one window.
        assertThat(closed >= 2 * (600 - 512), "none over the limit was closed", closed);
        for (const door of doors(target)) {
          const answer = await send(door);
          assertThat(answer.status === 401, "others are not answered", answer);
        }
      },
    };
  },

  bodies: async (target) => {
    let answered = 0;
    let begun = 0;
    const open = (door: URL) => {
      const socket = connectTo(door);
      const head = `POST ${door.pathname} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n`;
      socket.write(head);
      const dripping = setInterval(() => socket.writable && socket.write("x"), 100);
      socket.once("close", () => clearInterval(dripping));
      socket.once("data", (data: Buffer) => {
        if (data.toString().startsWith("HTTP/1.1 401 ")) answered += 1;
      });
      begun += 1;
      return socket;
    };
    return {
      during: async (signal) => {
        await hold(signal, () =>
          doors(target).flatMap((door) => Array.from({ length: 50 }, () => open(door))),
        );
      },
      check: async () => {
        assertThat(answered > begun / 2, "they were not answered at once", { answered, begun });
      },
    };
  },

  probes: async (target) => {
    const { fleet } = target;
    const sandbox = await target.create({ auto_resume: true, preview_access: "token" });
    await fleet.client.sandboxes.pause(sandbox.id);
    const health = new URL("/health", sandbox.public_host);
    return {
      ...answered(409, 50, () => send(health)),
      check: async () => {
        const seen = await fleet.client.sandboxes.get(sandbox.id);
        const states = (await eventsOf(target, sandbox)).map(({ to }) => to);
        assertThat(seen.status === "paused" && states.at(-1) === "paused", "it was woken", states);
        await fleet.client.sandboxes.delete(sandbox.id);
      },
    };
  },

  tab: async (target) => {
    const { fleet } = target;
    const sandbox = await target.create({ auto_pause: { idle_seconds: 2 }, auto_resume: true });
    const isPaused = async () => (await eventsOf(target, sandbox)).at(-1)?.to === "paused";
    const comeBack = async (signal: AbortSignal) => {
      while (!signal.aborted) {
        if (await isPaused()) await fleet.guest(sandbox, "/info");
        await sleep(50, undefined, { signal }).catch(() => {});
      }
    };
    return {
      during: comeBack,
      check: async () => {
        const stop = new AbortController();
        const coming = comeBack(stop.signal);
        const isDelayed = async () =>
          (await eventsOf(target, sandbox)).some(({ fact }) => fact === "auto_pause_delayed");
        await until("its pauses come later", isDelayed).finally(() => stop.abort());
        await coming;
        await fleet.client.sandboxes.delete(sandbox.id);
      },
    };
  },

  headers: async (target) =>
    answered(431, 20, async (at) => {
      const door = doors(target)[at % 2] ?? "";
      const answer = await send(door, {
        headers: { "x-long": "y".repeat(70 * KIB) },
      });
      const isJson =
        answer.body.code === "HEADERS_TOO_LARGE" &&
        String(answer.headers["x-request-id"]).startsWith("req_");
      assertThat(isJson, "it is no JSON with a request id", answer);
      return answer;
    }),

  malformed: async (target) => ({
    during: (signal) =>
      often(50, signal, async (at) => {
        const socket = connectTo(doors(target)[at % 2] ?? new URL(target.fleet.url));
        socket.end("NO HTTP AT ALL\r\n\r\n");
        const answer = await text(socket);
        assertThat(
          isJsonRefusal(answer, 400, "INVALID_REQUEST"),
          "it is no JSON with a request id",
          answer,
        );
      }),
    check: async () => {},
  }),
};
