/** Unusual links, names, places and moments of file calls, which users nevertheless have. */
import {
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  readlink,
  symlink,
  writeFile,
} from "node:fs/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { readWhole } from "../src/files/open-file.ts";
import { type AgentProcess, type ReceivedAnswer, startAgent } from "./harness.ts";

let agent: AgentProcess;
let number = 0;
/** The directory of one test. */
let home: string;
const mounts: string[] = [];
beforeAll(async () => {
  agent = await startAgent();
});
afterAll(async () => await agent[Symbol.asyncDispose]());
beforeEach(async () => {
  home = agent.workspace(`d${(number += 1)}`);
  await mkdir(home);
});
afterEach(async () => {
  for (let path = mounts.pop(); path !== undefined; path = mounts.pop())
    await agent.shell(`umount ${path}`);
});

const query = (path: string) => new URLSearchParams({ path }).toString();
const answer = ({ status, body }: ReceivedAnswer) =>
  [status, body["code"], body["message"]].map(String).join(" ");
const get = (call: string, path: string) => agent.call("GET", `/files/${call}?${query(path)}`);
const post = (call: string, body: Record<string, unknown>) =>
  agent.call("POST", `/files/${call}`, body);
const write = (path: string, content = "x") => post("write", { path, content });
const entries = async () => (await get("list", home)).body["files"] as Record<string, unknown>[];

async function upload(fields: [string, string | Blob][]): Promise<ReceivedAnswer> {
  const form = new FormData();
  for (const [name, value] of fields) form.append(name, value as string);
  const response = await agent.fetch("POST", "/files/upload", { body: form });
  const body = (await response.json()) as Record<string, unknown>;
  return { status: response.status, headers: response.headers, body };
}

test("a list has links that lead nowhere or in a circle, and every name", async () => {
  await symlink("nowhere", `${home}/broken`);
  await symlink("circle", `${home}/circle`);
  await writeFile(`${home}/a\nb "c" \\d`, "123");
  await writeFile(`${home}/.hidden`, "");
  expect(await entries()).toMatchObject([
    { name: ".hidden", size: 0 },
    { name: 'a\nb "c" \\d', size: 3 },
    { name: "broken", is_symlink: true, is_dir: false },
    { name: "circle", is_symlink: true, is_dir: false },
  ]);
  expect((await get("read", `${home}/a\nb "c" \\d`)).body).toMatchObject({ content: "123" });
});

test("a list is whole while files come, go and are written over", async () => {
  await writeFile(`${home}/stays`, "");
  let isOver = false;
  const churn = (async () => {
    for (let round = 0; round < 60; round += 1) {
      await write(`${home}/over`, "y".repeat(round));
      await write(`${home}/come-${round}`);
      await agent.call("DELETE", `/files/remove?${query(`${home}/come-${round}`)}`);
    }
    isOver = true;
  })();
  while (!isOver)
    for (const { name } of await entries()) expect(name).toMatch(/^(stays|over|come-\d+)$/);
  await churn;
  expect((await entries()).map(({ name }) => name)).toEqual(["over", "stays"]);
});

test("of writes of one file at the same time one is there, whole", async () => {
  const contents = Array.from({ length: 20 }, (_, at) => String(at).repeat(50_000));
  const answers = await Promise.all(contents.map((content) => write(`${home}/file`, content)));
  expect(answers.map(({ status }) => status)).toEqual(contents.map(() => 200));
  expect(contents).toContain(await readFile(`${home}/file`, "utf8"));
  expect(await readdir(home)).toEqual(["file"]);
});

test("of writes at the same time that must be the first one is", async () => {
  const body = { path: `${home}/a/b/c`, content: "x", overwrite: false };
  const answers = await Promise.all(Array.from({ length: 10 }, () => post("write", body)));
  expect(answers.map(({ status }) => status).filter((status) => status !== 409)).toEqual([200]);
});

describe("a link", () => {
  test("to what is not there yet is written through", async () => {
    await symlink("sub/target", `${home}/link`);
    expect((await write(`${home}/link`, "through")).body).toMatchObject({
      path: `${home}/sub/target`,
    });
    expect(await readFile(`${home}/sub/target`, "utf8")).toBe("through");
    expect(await readlink(`${home}/link`)).toBe("sub/target");
  });

  test("to another place that may be touched is as good as the place", async () => {
    const elsewhere = `${agent.root}/home/elsewhere`;
    await mkdir(elsewhere, { recursive: true });
    await symlink(elsewhere, `${home}/link`);
    expect((await write(`${home}/link/a/b`)).body).toMatchObject({ path: `${elsewhere}/a/b` });
    expect(await readdir(`${elsewhere}/a`)).toEqual(["b"]);
  });

  test.each([
    ["to a place outside that is not there", "/etc/torpor-none", ""],
    ["up and out", "../../../etc/torpor-none", ""],
    ["to a directory outside", "/etc", "/torpor-none"],
    ["through another one", "second", "/torpor-none"],
    ["by way of /proc", "/proc/self/root/etc", "/torpor-none"],
  ])("%s leads nowhere", async (_, target, below) => {
    await symlink("/etc", `${home}/second`);
    await symlink(target, `${home}/link`);
    for (const result of [
      await write(`${home}/link${below}`),
      await post("mkdir", { path: `${home}/link${below}` }),
      await get("read", `${home}/link${below}`),
    ])
      expect(answer(result)).toMatch(/^403 PATH_NOT_ALLOWED/);
    expect(await lstat("/etc/torpor-none").catch(() => "none")).toBe("none");
  });

  test("up and out of a directory that is not there is nowhere, as for every program", async () => {
    await symlink("none/../../../../../../etc/torpor-none", `${home}/link`);
    for (const result of [await write(`${home}/link`), await get("read", `${home}/link`)])
      expect(answer(result)).toMatch(/^404 FILE_NOT_FOUND/);
    await symlink(`${agent.root}/home`, `${home}/away`);
    expect(answer(await get("exists", `${home}/away/../workspace`))).toMatch(/^200/);
  });

  test("in a circle is said to be one", async () => {
    await symlink("other", `${home}/circle`);
    await symlink("circle", `${home}/other`);
    expect(answer(await write(`${home}/circle/x`))).toMatch(/^400 INVALID_PATH .*circle/);
    expect((await agent.call("DELETE", `/files/remove?${query(`${home}/circle`)}`)).status).toBe(
      200,
    );
  });
});

test("below a file nothing can be made, and the answer names the file", async () => {
  await writeFile(`${home}/file`, "kept");
  const said = new RegExp(`^400 INVALID_PATH ${home}/file is no directory$`);
  for (const path of [`${home}/file/x`, `${home}/file/x/y`]) {
    expect(answer(await write(path))).toMatch(said);
    expect(
      answer(
        await upload([
          ["path", path],
          ["file", new Blob(["x"])],
        ]),
      ),
    ).toMatch(said);
    expect(answer(await post("mkdir", { path }))).toMatch(said);
    expect((await get("exists", path)).body).toMatchObject({ exists: false });
    expect((await get("read", path)).status).toBe(400);
  }
  expect(
    answer(
      await upload([
        ["path", `${home}/file/`],
        ["file", new Blob(["x"])],
      ]),
    ),
  ).toMatch(/^400/);
  expect(answer(await post("mkdir", { path: `${home}/file` }))).toMatch(/^409 FILE_ALREADY_EXISTS/);
  expect(await readFile(`${home}/file`, "utf8")).toBe("kept");
});

test("a pipe or a socket is no file to write over", async () => {
  await agent.shell(`mkfifo ${home}/pipe`);
  expect(answer(await write(`${home}/pipe`))).toMatch(/^400 INVALID_PATH .*no regular file/);
  expect((await lstat(`${home}/pipe`)).isFIFO()).toBe(true);
});

test("a file that says it is empty and is not is read to its end", async () => {
  const path = `${home}/version`;
  await writeFile(path, "");
  await agent.shell(`mount --bind /proc/version ${path}`);
  mounts.push(path);
  const version = await readFile("/proc/version", "utf8");
  expect((await get("read", path)).body).toMatchObject({ content: version, size: version.length });
  const download = (headers: Record<string, string> = {}, method = "GET") =>
    agent.fetch(method, `/files/download?${query(path)}`, { headers });
  expect(await (await download()).text()).toBe(version);
  const ranged = await download({ range: "bytes=0-3" });
  expect([ranged.status, await ranged.text()]).toEqual([200, version]);
  expect((await download({}, "HEAD")).status).toBe(200);
});

test("of a file that says less than it has no more than the limit is read", async () => {
  await writeFile(`${home}/large`, Buffer.alloc(300_000));
  const handle = await open(`${home}/large`);
  const facts = Object.assign(await handle.stat(), { size: 0 });
  expect(await readWhole({ handle, facts }, 200_000)).toBeUndefined();
  await handle.close();
  const again = await open(`${home}/large`);
  expect(await readWhole({ handle: again, facts }, 300_000)).toHaveLength(300_000);
  await again.close();
});

test("an upload is one file, and its fields are what they can be", async () => {
  const file: [string, Blob] = ["file", new Blob(["x"])];
  const path: [string, string] = ["path", `${home}/x`];
  expect(answer(await upload([path, file, file]))).toMatch(/^400 INVALID_REQUEST .*one file/);
  expect(answer(await upload([path, file, ["overwrite", "maybe"]]))).toMatch(/^400 .*"overwrite"/);
  expect(answer(await upload([path, file, ["mode", "rw-r--r--"]]))).toMatch(/^400 .*"mode"/);
  expect(await readdir(home)).toEqual([]);
  expect((await upload([path, file, ["overwrite", "False"]])).status).toBe(200);
  expect((await upload([path, file, ["overwrite", "False"]])).status).toBe(409);
});

describe("what cannot be what was meant is refused", () => {
  test.each([
    ["a base64 text that was cut off", { content: "QUJDR", encoding: "base64" }, "base64"],
    ["one of a single digit", { content: "Q", encoding: "base64" }, "base64"],
    ["one with too few of its padding", { content: "QUI==", encoding: "base64" }, "base64"],
    ["a mode that is a number", { content: "x", mode: 755 }, "mode"],
  ])("%s", async (_, more, field) => {
    const result = await post("write", { path: `${home}/x`, ...more });
    expect(answer(result)).toMatch(new RegExp(`^400 INVALID_REQUEST.*${field}`));
    expect(await lstat(`${home}/x`).catch(() => "none")).toBe("none");
  });

  test("a body or a path that is not UTF-8", async () => {
    const body = Buffer.concat([
      Buffer.from(`{"path":"${home}/x","content":"caf`),
      Buffer.from([0xe9]),
      Buffer.from('"}'),
    ]);
    const headers = { "content-type": "application/json" };
    expect((await agent.fetch("POST", "/files/write", { body, headers })).status).toBe(400);
    expect((await agent.fetch("GET", `/files/read?path=${home}/%E9`)).status).toBe(400);
    expect(await lstat(`${home}/x`).catch(() => "none")).toBe("none");
  });
});

test("base64 with its lines broken is taken", async () => {
  await post("write", { path: `${home}/x`, content: "QUJD\nREVG\n", encoding: "base64" });
  expect((await get("read", `${home}/x`)).body["content"]).toBe("ABCDEF");
});

test("above a link is where the link leads, as for every program", async () => {
  await mkdir(`${agent.root}/home/deep/below`, { recursive: true });
  await symlink(`${agent.root}/home/deep/below`, `${home}/link`);
  await write(`${home}/link/../file`);
  expect(await readdir(`${agent.root}/home/deep`)).toEqual(["below", "file"]);
});
