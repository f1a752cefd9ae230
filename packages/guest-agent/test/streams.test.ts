/**
 * WebSockets: execution output, terminals, watching; with a client that takes everything, one that
 * loses frames as the JavaScript SDK does, and ones that leave.
 */
import { randomInt } from "node:crypto";
import { once } from "node:events";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import {
  type AgentProcess,
  type ReceivedFrame,
  frames,
  ofType,
  send,
  startAgent,
  textOf,
  until,
} from "./harness.ts";

let agent: AgentProcess;
beforeAll(async () => {
  agent = await startAgent();
});
afterAll(async () => await agent[Symbol.asyncDispose]());

const run = async (code: string, more: Record<string, unknown> = {}) => {
  const socket = await agent.connect("/execute/stream");
  send(socket, { type: "execute", language: "bash", code, ...more });
  return socket;
};

/** The SDK's loop: one listener, only while the consumer waits. Messages in between are lost. */
async function lossyFrames(
  socket: WebSocket,
  isLast: (frame: ReceivedFrame) => boolean,
): Promise<ReceivedFrame[]> {
  const all: ReceivedFrame[] = [];
  while (socket.readyState === WebSocket.OPEN) {
    const data = await new Promise<Buffer>((resolve) => void socket.once("message", resolve));
    const frame = JSON.parse(data.toString()) as ReceivedFrame;
    all.push(frame);
    if (isLast(frame)) break;
  }
  socket.close();
  return all;
}

const LINES = `${Array.from({ length: 10_000 }, (_, at) => `line ${at + 1}`).join("\n")}\n`;
const TEN_THOUSAND = 'for i in $(seq 1 10000); do echo "line $i"; done';

describe("/execute/stream", () => {
  test("output, result, complete", async () => {
    const all = await frames(
      await run("echo out; sleep 0.2; echo err >&2; exit 3"),
      ofType("complete"),
    );
    expect(all).toMatchObject([
      { type: "stdout", data: "out\n", timestamp: expect.any(String) },
      { type: "stderr", data: "err\n" },
      { type: "result", exit_code: 3, execution_time: expect.any(Number) },
      { type: "complete", success: false },
    ]);
  });

  test("10,000 lines arrive whole and in order", async () => {
    expect(textOf(await frames(await run(TEN_THOUSAND), ofType("complete")), "stdout")).toBe(LINES);
  });

  test("L1: 10,000 lines arrive whole and in order at a client that loses back-to-back frames", async () => {
    const all = await lossyFrames(await run(TEN_THOUSAND), ofType("complete"));
    expect(textOf(all, "stdout")).toBe(LINES);
    expect(all.at(-1)).toMatchObject({ type: "complete", success: true });
  });

  test("L4: `complete` is repeated for a client that missed it", async () => {
    const socket = await run("echo x");
    await frames(socket, () => false, 1).catch(() => {});
    const all = await frames(socket, (frame) => frame["type"] === "complete");
    expect(all.at(-1)).toMatchObject({ type: "complete", success: true });
    const again = await run("echo y");
    let completes = 0;
    again.on(
      "message",
      (data: Buffer) =>
        (completes +=
          (JSON.parse(data.toString()) as ReceivedFrame)["type"] === "complete" ? 1 : 0),
    );
    await until("three of them", () => completes >= 3);
    again.close();
  });

  test("L3: a client that stops reading holds up the program; nothing is lost and nothing piles up", async () => {
    const before = await agent.rssBytes();
    const socket = await run(
      "for i in $(seq 1 200); do head -c 200000 /dev/zero | tr '\\0' x; echo $i >> progress; done; echo END",
    );
    socket.pause();
    await sleep(1_500);
    const held = Number((await agent.shell("wc -l < progress || echo 0"))["stdout"]);
    expect(held).toBeLessThan(100);
    expect((await agent.rssBytes()) - before).toBeLessThan(100 * 1024 ** 2);
    socket.resume();
    const text = textOf(await frames(socket, ofType("complete"), 60_000), "stdout");
    expect(text.length).toBe(200 * 200_000 + 4);
    expect(text.endsWith("END\n")).toBe(true);
  }, 90_000);

  test("characters that are split over two writes arrive whole", async () => {
    expect(
      textOf(
        await frames(await run("printf '\\xc3'; sleep 0.3; printf '\\xbc'"), ofType("complete")),
        "stdout",
      ),
    ).toBe("ü");
  });

  test("the time limit is an error frame, and the end", async () => {
    const all = await frames(await run("echo a; sleep 30", { timeout: 0.4 }), ofType("complete"));
    expect(all.find(ofType("error"))).toMatchObject({ code: "EXECUTION_TIMEOUT" });
    expect(all.find(ofType("result"))).toMatchObject({ exit_code: 124 });
    expect(all.at(-1)).toMatchObject({ type: "complete", success: false });
  });

  test("a client that leaves ends the program", async () => {
    const socket = await run("sleep 49.33");
    const isRunning = async () =>
      String((await agent.shell("ps ax -o args"))["stdout"]).includes("sleep 49.33");
    await until("it runs", isRunning);
    socket.terminate();
    await until("it is gone", async () => !(await isRunning()));
    await until("nothing is open", async () => (await agent.activity())["open_streams"] === 0);
  });

  test.each([
    ["no JSON", "INVALID_JSON", /JSON/],
    [[1], "INVALID_REQUEST", /object/],
    [{ type: "execute" }, "MISSING_PARAMETER", /"code"/],
    [{ code: "x", language: "cobol" }, "INVALID_REQUEST", /"language"/],
    [{ code: "x", language: "bash", timeout: -1 }, "INVALID_REQUEST", /"timeout"/],
    [{ code: "x", language: "bash", env: { "a b": "c" } }, "INVALID_REQUEST", /"env\.a b"/],
    [{ code: "x", language: "bash", workdir: "/no/such" }, "DIRECTORY_NOT_FOUND", /"workdir"/],
  ])("%j is an error frame that names the field, and the end", async (message, code, text) => {
    const socket = await agent.connect("/execute/stream");
    send(socket, message);
    const all = await frames(socket, ofType("complete"));
    expect(all).toMatchObject([
      { type: "error", code, error: expect.stringMatching(text) },
      { type: "complete", success: false },
    ]);
  });

  test("commands stream too, in both forms", async () => {
    for (const message of [{ command: "echo a b" }, { command: "echo", args: ["a", "b"] }]) {
      const socket = await agent.connect("/commands/stream");
      send(socket, message);
      expect(textOf(await frames(socket, ofType("complete")), "stdout")).toBe("a b\n");
    }
  });
});

describe("/terminal", () => {
  const open = async (path = "/terminal") => {
    const socket = await agent.connect(path);
    const seen = { text: "", exits: [] as ReceivedFrame[] };
    socket.on("message", (data: Buffer) => {
      const frame = JSON.parse(data.toString()) as ReceivedFrame;
      if (frame["type"] === "output") seen.text += String(frame["data"]);
      if (frame["type"] === "exit") seen.exits.push(frame);
    });
    const type = (data: string) => send(socket, { type: "input", data });
    return { socket, seen, type };
  };

  test("is a real terminal, of the size that is asked for", async () => {
    const { socket, seen, type } = await open("/terminal?cols=100&rows=30");
    type("tty; stty size\n");
    await until(
      "its size",
      () => /\/dev\/pts\/\d+/.test(seen.text) && seen.text.includes("30 100"),
    );
    send(socket, { type: "resize", cols: 132, rows: 43 });
    type("stty size\n");
    await until("its new size", () => seen.text.includes("43 132"));
    type("exit 7\n");
    await until("its exit", () => seen.exits.length > 0);
    expect(seen.exits[0]).toMatchObject({ type: "exit", code: 7, exitCode: 7 });
    socket.close();
  });

  test.each([
    ["exit 3", 3],
    ["kill -9 $$", 137],
    ["kill -HUP $$", 129],
  ])("%s ends it with %i", async (line, code) => {
    const socket = await agent.connect("/terminal");
    send(socket, { type: "input", data: `${line}\n` });
    expect((await frames(socket, ofType("exit"))).at(-1)).toMatchObject({ code });
  });

  test("Ctrl-C reaches what runs", async () => {
    const { socket, seen, type } = await open();
    type("sleep 100; echo st'op'ped $?\n");
    await until("it runs", async () =>
      String((await agent.shell("ps ax -o args"))["stdout"]).includes("sleep 100"),
    );
    type("\u0003");
    type("echo af'te'r\n");
    await until("the next command", () => seen.text.includes("after"));
    socket.close();
  });

  test.each([
    ["what runs in it is hung up", ""],
    ["what does not listen to that is ended", "trap '' HUP; "],
  ])("when the client leaves, %s", async (_what, before) => {
    const { socket, seen, type } = await open();
    // Unique commands on the machine, even if other tests run on it.
    const [one, other] = [`sleep 51.${randomInt(1e9)}`, `sleep 52.${randomInt(1e9)}`];
    const helper = fileURLToPath(new URL("../guest/terminal.py", import.meta.url));
    type(`${before}${one} & ${other}\n`);
    const running = async () => String((await agent.shell("ps ax -o args"))["stdout"]);
    await until(
      "both run",
      async () =>
        (await running()).includes(`\n${one}\n`) && (await running()).includes(`\n${other}\n`),
    );
    expect(seen.text).toContain("sleep");
    socket.terminate();
    await until(
      "both are gone",
      async () =>
        !(await running()).includes(`\n${one}\n`) && !(await running()).includes(`\n${other}\n`),
    );
    await until("no helper is left", async () => !(await running()).includes(helper));
  });

  test("large output is whole, and input is not mixed up", async () => {
    const { socket, seen, type } = await open();
    type("stty -echo; PS1=; clear\n");
    await sleep(300);
    type("seq 1 20000 | md5sum; seq 1 20000; echo en'd'ed\n");
    await until("the end", () => seen.text.includes("ended"), 20_000);
    const numbers = [...seen.text.matchAll(/^(\d+)\r$/gm)].map(([, number]) => Number(number));
    expect(numbers).toEqual(Array.from({ length: 20_000 }, (_, at) => at + 1));
    socket.close();
  });

  test.each([
    [{ type: "resize", cols: 0, rows: 5 }, /"cols"/],
    [{ type: "resize", cols: 5 }, /"rows"/],
    [{ type: "input" }, /"data"/],
    [{ type: "dance" }, /"type"/],
    [{}, /"type"/],
    ["x", /JSON/],
  ])("%j is an error frame, and the terminal goes on", async (message, text) => {
    const { socket, seen, type } = await open();
    const error = new Promise<ReceivedFrame>((resolve) => {
      socket.on("message", (data: Buffer) => {
        const frame = JSON.parse(data.toString()) as ReceivedFrame;
        if (frame["type"] === "error") resolve(frame);
      });
    });
    send(socket, message);
    expect((await error)["error"]).toMatch(text);
    type("echo al'iv'e\n");
    await until("it lives", () => seen.text.includes("alive"));
    socket.close();
  });
});

describe("/files/watch", () => {
  const watch = async (path: string) => {
    const socket = await agent.connect("/files/watch");
    const changes: ReceivedFrame[] = [];
    let isWatching = false;
    socket.on("message", (data: Buffer) => {
      const frame = JSON.parse(data.toString()) as ReceivedFrame;
      if (frame["type"] === "watching") isWatching = true;
      else changes.push(frame);
    });
    send(socket, { action: "watch", path });
    await until("it watches", () => isWatching || changes.length > 0);
    const has = (event: string, name: string) =>
      changes.some((frame) => frame["event"] === event && frame["path"] === agent.workspace(name));
    return { socket, changes, has };
  };

  test("tells of what is created, modified, renamed and deleted, at any depth", async () => {
    await mkdir(agent.workspace("w/deep"), { recursive: true });
    const { socket, changes, has } = await watch(agent.workspace("w"));
    await writeFile(agent.workspace("w/deep/a"), "1");
    await until("created", () => has("created", "w/deep/a"));
    await writeFile(agent.workspace("w/deep/a"), "22");
    await until("modified", () => has("modified", "w/deep/a"));
    await rename(agent.workspace("w/deep/a"), agent.workspace("w/b"));
    await until("renamed", () => has("renamed", "w/b"));
    expect(changes.find((frame) => frame["event"] === "renamed")).toMatchObject({
      old_path: agent.workspace("w/deep/a"),
      type: "change",
    });
    await mkdir(agent.workspace("w/new/er"), { recursive: true });
    await until("new directories", () => has("created", "w/new") && has("created", "w/new/er"));
    await writeFile(agent.workspace("w/new/er/file"), "x");
    await until("and what is in them", () => has("created", "w/new/er/file"));
    await rm(agent.workspace("w/b"));
    await until("deleted", () => has("deleted", "w/b"));
    socket.close();
  });

  test("many changes all arrive at a client that loses back-to-back frames", async () => {
    await mkdir(agent.workspace("many"));
    const socket = await agent.connect("/files/watch");
    send(socket, { action: "watch", path: "many" });
    await once(socket, "message");
    const created = new Set<unknown>();
    const all = lossyFrames(socket, (frame) => {
      if (frame["event"] === "created") created.add(frame["path"]);
      return created.size === 200;
    });
    await agent.shell("for i in $(seq 1 200); do : > many/$i; done");
    await all;
    expect(created.size).toBe(200);
  });

  test("what cannot be watched is said", async () => {
    for (const [path, code] of [
      ["/etc", "PATH_NOT_ALLOWED"],
      ["none", "FILE_NOT_FOUND"],
      ["../..", "PATH_NOT_ALLOWED"],
    ] as const) {
      const { socket, changes } = await watch(path);
      expect(changes[0]).toMatchObject({ type: "error", code });
      socket.close();
    }
  });

  test("a client that leaves takes its watcher along", async () => {
    const { socket } = await watch(agent.workspace());
    const children = async () =>
      String((await agent.shell(`ps -o args= --ppid ${agent.process.pid}`))["stdout"]);
    const helpers = async () => ((await children()).match(/watcher\.py/g) ?? []).length;
    expect(await helpers()).toBeGreaterThan(0);
    socket.terminate();
    await until("it is gone", async () => (await helpers()) === 0);
  });
});

describe("refusals of an upgrade", () => {
  const refused = async (path: string, headers: Record<string, string>) => {
    const socket = new WebSocket(`ws://127.0.0.1:${agent.port}${path}`, { headers });
    const [error] = (await once(socket, "error")) as [Error];
    return error.message;
  };

  test("no key, no such stream", async () => {
    expect(await refused("/execute/stream", {})).toContain("401");
    expect(await refused("/none", { "x-torpor-agent-key": "test-key" })).toContain("404");
  });
});
