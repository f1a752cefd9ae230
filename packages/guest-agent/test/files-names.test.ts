/**
 * Names that are not UTF-8: lists show a form that every other call accepts, and no name is
 * mistaken for another.
 */
import { mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { type AgentProcess, type ReceivedFrame, send, startAgent, until } from "./harness.ts";

let agent: AgentProcess;
let number = 0;
/** The directory of one test. */
let home: string;
beforeAll(async () => {
  agent = await startAgent();
});
afterAll(async () => await agent[Symbol.asyncDispose]());
beforeEach(async () => {
  home = agent.workspace(`d${(number += 1)}`);
  await mkdir(home);
});

const query = (path: string) => new URLSearchParams({ path }).toString();
const inHome = (name: Buffer) => Buffer.concat([Buffer.from(`${home}/`), name]);
const latin = (text: string) => Buffer.from(text, "latin1");
const names = async () =>
  (await readdir(home, { encoding: "buffer" })).map((name) => name.toString("latin1")).sort();

async function get(call: string, path: string): Promise<Record<string, unknown>> {
  const { status, body } = await agent.call("GET", `/files/${call}?${query(path)}`);
  expect(status, JSON.stringify(body)).toBe(200);
  return body;
}

async function post(call: string, body: Record<string, unknown>): Promise<void> {
  const answer = await agent.call("POST", `/files/${call}`, body);
  expect(answer.status, JSON.stringify(answer.body)).toBe(200);
}

const listed = async () => (await get("list", home))["files"] as { name: string; path: string }[];

/** Every name of one to three of these bytes: letters, halves of them, and U+F0FF (ef 83 bf). */
function trickyNames(): Buffer[] {
  const bytes = [0x61, 0x83, 0xbf, 0xc3, 0xef, 0xff];
  const one = bytes.map((byte) => [byte]);
  const two = one.flatMap((head) => bytes.map((byte) => [...head, byte]));
  const three = two.flatMap((head) => bytes.map((byte) => [...head, byte]));
  return [...one, ...two, ...three].map((name) => Buffer.from(name));
}

test("FN2: every name has a text of its own, which means it and no other", async () => {
  const all = trickyNames();
  for (const name of all) await writeFile(inHome(name), name.toString("hex"));
  const entries = await listed();
  expect(new Set(entries.map(({ name }) => name)).size).toBe(all.length);
  const seen = new Set<string>();
  for (const { name, path } of entries) {
    expect(path).toBe(`${home}/${name}`);
    seen.add(String((await get("read", path))["content"]));
  }
  expect(seen).toEqual(new Set(all.map((name) => name.toString("hex"))));
});

test("FN1: bytes that are not UTF-8 are shown as U+F080 to U+F0FF, other names as they are", async () => {
  for (const name of ["caf\xe9.txt", "\xff", "\xed\xa0\x80", "gr\xc3\xbc\xc3\x9fe", "\xef\x83\x89"])
    await writeFile(inHome(latin(name)), "");
  expect((await listed()).map(({ name }) => name)).toEqual([
    "caf\uf0e9.txt",
    "grüße",
    "\uf0ed\uf0a0\uf080",
    "\uf0c9",
    "\uf0ff",
  ]);
});

test("every call of a file takes what the list has", async () => {
  const name = "caf\xe9.txt";
  await writeFile(inHome(latin(name)), "one");
  const path = String((await listed())[0]?.path);
  expect(await get("exists", path)).toEqual({ exists: true, path });
  expect(await get("read", path)).toMatchObject({ content: "one", path });
  const download = await agent.fetch("GET", `/files/download?${query(path)}`);
  expect(await download.text()).toBe("one");
  await post("write", { path, content: "two" });
  expect(await readFile(inHome(latin(name)), "utf8")).toBe("two");
  const form = new FormData();
  form.append("path", path);
  form.append("file", new Blob(["three"]), "x");
  const uploaded = await agent.fetch("POST", "/files/upload", { body: form });
  expect(await uploaded.json()).toMatchObject({ success: true, path });
  expect(await readFile(inHome(latin(name)), "utf8")).toBe("three");
  expect(await names()).toEqual([name]);
  const removed = await agent.call("DELETE", `/files/remove?${query(path)}`);
  expect(removed).toMatchObject({ status: 200, body: { path } });
  expect(await names()).toEqual([]);
});

test("every call of a directory takes what the list has, and what is below it", async () => {
  await mkdir(inHome(latin("\xe9\n\xff")));
  const path = String((await listed())[0]?.path);
  await post("mkdir", { path: `${path}/a/b` });
  await post("write", { path: `${path}/a/file`, content: "x" });
  expect(await readdir(Buffer.concat([inHome(latin("\xe9\n\xff")), latin("/a")]))).toEqual([
    "b",
    "file",
  ]);
  expect(await get("list", path)).toMatchObject({ path, files: [{ path: `${path}/a` }] });
  expect((await agent.call("DELETE", `/files/remove?${query(path)}`)).status).toBe(200);
  expect(await names()).toEqual([]);
});

test("a link to such a name leads to it", async () => {
  await mkdir(inHome(latin("\xff")));
  await symlink(latin("\xff/new"), inHome(Buffer.from("link")));
  await post("write", { path: `${home}/link`, content: "x" });
  expect(await get("read", `${home}/\uf0ff/new`)).toMatchObject({ path: `${home}/\uf0ff/new` });
  expect(await names()).toEqual(["link", "\xff"]);
});

test("what is not there yet gets the name that is asked for", async () => {
  await post("write", { path: `${home}/\uf0c9`, content: "x" });
  expect(await names()).toEqual(["\xef\x83\x89"]);
  expect((await listed()).map(({ name }) => name)).toEqual(["\uf0c9"]);
});

test("half a surrogate pair is no name, and no content", async () => {
  const path = `${home}/x`;
  for (const body of [
    { path: `${path}\ud800`, content: "x" },
    { path, content: "x\udc80" },
  ]) {
    const answer = await agent.call("POST", "/files/write", body);
    expect(answer.status).toBe(400);
    expect(answer.body["message"]).toMatch(/"(path|content)" holds half a surrogate pair/);
  }
  expect(await names()).toEqual([]);
});

test("a watch takes what the list has, and tells of names as the list shows them", async () => {
  await mkdir(inHome(latin("\xff")));
  const path = String((await listed())[0]?.path);
  const socket = await agent.connect("/files/watch");
  const frames: ReceivedFrame[] = [];
  socket.on("message", (data: Buffer) => frames.push(JSON.parse(data.toString()) as ReceivedFrame));
  send(socket, { action: "watch", path });
  await until("it watches", () => frames.length > 0);
  expect(frames[0]).toMatchObject({ type: "watching", path });
  const all = trickyNames();
  for (const name of all)
    await writeFile(Buffer.concat([inHome(latin("\xff")), latin("/"), name]), "");
  const told = () =>
    frames.filter(({ event }) => event === "created").map((frame) => frame["path"]);
  await until("all are told", () => told().length === all.length);
  const shown = (await get("list", path))["files"] as { path: string }[];
  expect(new Set(told())).toEqual(new Set(shown.map((entry) => entry.path)));
  socket.close();
});
