/** Watching: exactly one event per change; guest/watcher.py by itself, and through the agent. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import {
  appendFile,
  mkdir,
  mkdtemp,
  realpath,
  rename,
  rm,
  rmdir,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type ReceivedFrame, send, startAgent, until } from "./harness.ts";

const WATCHER = fileURLToPath(new URL("../guest/watcher.py", import.meta.url));

let dir: string;
let watcher: ChildProcess;
let said: string;
beforeEach(async () => {
  dir = await realpath(await mkdtemp(join(tmpdir(), "torpor-watch-")));
  watcher = spawn("python3", ["-ISu", WATCHER], { stdio: ["pipe", "pipe", "inherit"] });
  said = "";
  watcher.stdout?.setEncoding("utf8").on("data", (text: string) => (said += text));
});
afterEach(async () => {
  watcher.kill("SIGKILL");
  if (watcher.exitCode === null && watcher.signalCode === null) await once(watcher, "exit");
  // Node cannot remove a tree that is too deep for a path.
  execFileSync("rm", ["-rf", dir]);
});

const at = (...names: string[]) => join(dir, ...names);
const events = () =>
  said
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Record<string, string>);
/** Events as "created a/b", "renamed a > b", "EVENTS_LOST ". */
const told = () =>
  events()
    .filter(({ event }) => event !== "watching")
    .map(({ event, code, path = "", old_path: old }) => {
      const from = old === undefined ? "" : `${old.slice(dir.length + 1)} > `;
      return `${code ?? event} ${from}${path.slice(dir.length + 1)}`;
    });
const isTold = (what: string) => until(what, () => told().includes(what));

async function watch(path: string): Promise<void> {
  const request = { path: Buffer.from(path).toString("base64"), shown: path };
  const before = events().length;
  watcher.stdin?.write(`${JSON.stringify(request)}\n`);
  await until("it watches", () => events().length > before);
}

describe("a change", () => {
  test("WT1: is told each time, also of the same file and with nothing between", async () => {
    await writeFile(at("log"), "");
    await watch(dir);
    for (let time = 1; time <= 4; time += 1) {
      await appendFile(at("log"), "line\n");
      await until("it is told", () => told().length >= time);
    }
    expect(told()).toEqual(Array.from({ length: 4 }, () => "modified log"));
  });

  test("back is a change too: made, removed and made again, renamed there and back", async () => {
    await watch(dir);
    writeFileSync(at("a"), "");
    rmSync(at("a"));
    writeFileSync(at("a"), "");
    renameSync(at("a"), at("b"));
    renameSync(at("b"), at("a"));
    mkdirSync(at("d"));
    rmSync(at("d"), { recursive: true });
    mkdirSync(at("d"));
    rmSync(at("a"));
    await isTold("deleted a");
    await until("the end", () => told().filter((what) => what === "deleted a").length === 2);
    expect(told()).toEqual([
      "created a",
      "deleted a",
      "created a",
      "renamed a > b",
      "renamed b > a",
      "created d",
      "deleted d",
      "created d",
      "deleted a",
    ]);
  });

  test("WT2: in a new directory is told once, however fast it comes", async () => {
    await watch(dir);
    const expected: string[] = [];
    for (let round = 0; round < 40; round += 1) {
      mkdirSync(at(`${round}/deep/er`), { recursive: true });
      for (const name of ["", "deep/", "deep/er/"])
        writeFileSync(at(`${round}/${name}file`), "content");
      for (const name of ["", "/file", "/deep", "/deep/file", "/deep/er", "/deep/er/file"])
        expected.push(`created ${round}${name}`);
    }
    await writeFile(at("end"), "");
    await isTold("created end");
    const created = told().filter((what) => what.startsWith("created"));
    expect(created.sort()).toEqual([...expected, "created end"].sort());
  });

  test("in a directory that was renamed before it could be looked into is told", async () => {
    await watch(dir);
    watcher.kill("SIGSTOP");
    for (let round = 0; round < 40; round += 1) {
      mkdirSync(at(`a${round}/in`), { recursive: true });
      renameSync(at(`a${round}`), at(`b${round}`));
      renameSync(at(`b${round}/in`), at(`b${round}/inner`));
    }
    watcher.kill("SIGCONT");
    await isTold("renamed a39 > b39");
    for (let round = 0; round < 40; round += 1) {
      await writeFile(at(`b${round}/inner/x`), "");
      await isTold(`created b${round}/inner/x`);
    }
  });

  test("of a removed and remade directory is told, with what is in it", async () => {
    await mkdir(at("d"));
    await watch(dir);
    for (let round = 0; round < 20; round += 1) {
      rmSync(at("d"), { recursive: true });
      mkdirSync(at("d"));
      writeFileSync(at(`d/${round}`), "");
    }
    await isTold("created d/19");
    await appendFile(at("d/19"), "more");
    await isTold("modified d/19");
    // The state of a client that trusts every event.
    const known = new Set<string>();
    for (const what of told()) {
      const [event, path = ""] = what.split(" ");
      if (event === "created") known.add(path);
      if (event === "deleted") known.delete(path);
    }
    expect([...known].sort()).toEqual(["d", "d/19"]);
  });

  test("of what is moved in or out is told, a directory then watched or no more", async () => {
    await mkdir(at("seen"));
    await mkdir(at("other/sub"), { recursive: true });
    await watch(at("seen"));
    await rename(at("other"), at("seen/moved"));
    await isTold("created seen/moved/sub");
    await writeFile(at("seen/moved/sub/x"), "");
    await isTold("created seen/moved/sub/x");
    await rename(at("seen/moved"), at("away"));
    await isTold("deleted seen/moved");
    await writeFile(at("away/sub/y"), "");
    await writeFile(at("seen/end"), "");
    await isTold("created seen/end");
    expect(told().some((what) => what.endsWith("/y"))).toBe(false);
  });

  test("of more than the kernel can keep is said to be lost, the next are told", async () => {
    await watch(dir);
    watcher.kill("SIGSTOP");
    for (let number = 0; number < 20_000; number += 1) writeFileSync(at(`file${number}`), "");
    mkdirSync(at("new"));
    watcher.kill("SIGCONT");
    await until("it is said", () => said.includes("EVENTS_LOST"));
    await writeFile(at("new/x"), "");
    await until("it is told", () => said.includes("/new/x"));
  });
});

describe("a watched file", () => {
  beforeEach(async () => {
    await writeFile(at("file"), "1");
    await watch(at("file"));
  });

  test("WT3: may be removed and made again, and only it is told of", async () => {
    await appendFile(at("file"), "2");
    await isTold("modified file");
    await writeFile(at("beside"), "");
    await rm(at("file"));
    await isTold("deleted file");
    await writeFile(at("file"), "");
    await isTold("created file");
    await appendFile(at("file"), "3");
    await until("it is told", () => told().length >= 4);
    expect(told()).toEqual(["modified file", "deleted file", "created file", "modified file"]);
  });

  test("that another takes the place of is modified", async () => {
    await writeFile(at("next"), "2");
    await rename(at("next"), at("file"));
    await isTold("modified file");
    await rename(at("file"), at("away"));
    await isTold("deleted file");
    await rename(at("away"), at("file"));
    await isTold("created file");
    expect(told()).toEqual(["modified file", "deleted file", "created file"]);
  });
});

test("a file that another takes the place of is modified, a new one created", async () => {
  await mkdir(at("in/below"), { recursive: true });
  for (const name of ["in/old", "in/below/old", "one", "other", "third"])
    await writeFile(at(name), "");
  await watch(at("in"));
  await rename(at("one"), at("in/old"));
  await rename(at("other"), at("in/new"));
  await rename(at("third"), at("in/below/old"));
  await rm(at("in/old"));
  await writeFile(at("again"), "");
  await rename(at("again"), at("in/old"));
  await until("all is told", () => told().length >= 5);
  expect(told()).toEqual([
    "modified in/old",
    "created in/new",
    "modified in/below/old",
    "deleted in/old",
    "created in/old",
  ]);
});

describe("what is watched and goes", () => {
  test.each([
    ["is removed", () => rmdir(at("root"))],
    ["is renamed", () => rename(at("root"), at("other"))],
  ])("a directory that %s is said to be gone, once", async (_, go) => {
    await mkdir(at("root"));
    await watch(at("root"));
    await go();
    await isTold("WATCH_ENDED root");
    await mkdir(at("root"), { recursive: true });
    await watch(at("root"));
    await writeFile(at("root/x"), "");
    await isTold("created root/x");
    expect(told()).toEqual(["deleted root", "WATCH_ENDED root", "created root/x"]);
  });

  test("one in another that is watched is told of by that one", async () => {
    await mkdir(at("root"));
    await watch(dir);
    await watch(at("root"));
    await rmdir(at("root"));
    await mkdir(at("root"));
    await writeFile(at("root/x"), "");
    await isTold("created root/x");
    expect(told()).toEqual(["deleted root", "created root", "created root/x"]);
  });
});

test("a tree deeper than a path can be long is watched to its end", async () => {
  const descend = "import os\nfor _ in range(30):\n  os.mkdir('n' * 200); os.chdir('n' * 200)\n";
  const code = `${descend}print('made', flush=True); input(); open('x', 'w'); input()`;
  const child = spawn("python3", ["-c", code], { cwd: dir });
  await once(child.stdout, "data");
  await watch(dir);
  child.stdin.write("\n");
  await until("the file", () => told().some((what) => /^created [n/]{6000,}x$/.test(what)));
  child.stdin.end();
  await once(child, "exit");
});

test("L2: a client that does not take a `modified` is told of the same once", async () => {
  await using agent = await startAgent();
  for (const name of ["a", "b"]) await writeFile(agent.workspace(name), "");
  const socket = await agent.connect("/files/watch");
  const frames: ReceivedFrame[] = [];
  socket.on("message", (data: Buffer) => frames.push(JSON.parse(data.toString()) as ReceivedFrame));
  send(socket, { action: "watch", path: agent.workspace() });
  await until("it watches", () => frames.length === 1);
  socket.pause();
  for (let time = 0; time < 500; time += 1)
    for (const name of ["a", "b"]) appendFileSync(agent.workspace(name), "x");
  await writeFile(agent.workspace("end"), "");
  socket.resume();
  await until("the end", () => frames.some(({ path }) => path === agent.workspace("end")));
  const modified = frames.filter(({ event }) => event === "modified").map(({ path }) => path);
  expect(new Set(modified)).toEqual(new Set([agent.workspace("a"), agent.workspace("b")]));
  expect(modified.length).toBeLessThan(20);
  socket.close();
});

test("a call that writes is told of as what it is", async () => {
  await using agent = await startAgent();
  const socket = await agent.connect("/files/watch");
  const frames: ReceivedFrame[] = [];
  socket.on("message", (data: Buffer) => frames.push(JSON.parse(data.toString()) as ReceivedFrame));
  send(socket, { action: "watch", path: agent.workspace() });
  await until("it watches", () => frames.length === 1);
  for (const content of ["1", "2"])
    await agent.call("POST", "/files/write", { path: "a/file", content });
  await agent.call("DELETE", "/files/remove?path=a/file");
  await until("all is told", () => frames.length >= 5);
  const seen = frames.slice(1).map(({ event, path }) => [event, path].map(String).join(" "));
  expect(seen).toEqual([
    `created ${agent.workspace("a")}`,
    `created ${agent.workspace("a/file")}`,
    `modified ${agent.workspace("a/file")}`,
    `deleted ${agent.workspace("a/file")}`,
  ]);
  socket.close();
});
