/**
 * Disks that are full, read-only or of another kind, and trees deeper than a path can be long:
 * clear errors, and nothing half done.
 */
import { execFileSync } from "node:child_process";
import {
  chmod,
  chown,
  lstat,
  mkdir,
  readdir,
  readFile,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { withFileErrors } from "../src/files/file-errors.ts";
import { type AgentProcess, type ReceivedAnswer, startAgent } from "./harness.ts";

let agent: AgentProcess;
const mounts: string[] = [];
beforeAll(async () => {
  agent = await startAgent();
});
afterEach(async () => {
  for (let path = mounts.pop(); path !== undefined; path = mounts.pop())
    await mounting(`umount ${path}`);
});
afterAll(async () => await agent[Symbol.asyncDispose]());

const query = (path: string) => new URLSearchParams({ path }).toString();
const answer = ({ status, body }: ReceivedAnswer) =>
  [status, body["code"], body["message"]].map(String).join(" ");

const mounting = async (command: string) =>
  expect(await agent.shell(command)).toMatchObject({ success: true });

/** Mounts a separate file system. */
async function mount(path: string, options: string): Promise<void> {
  await mkdir(path, { recursive: true });
  await mounting(`mount -t tmpfs -o ${options} tmpfs ${path}`);
  mounts.push(path);
}

async function upload(path: string, content: string, fields: Record<string, string> = {}) {
  const form = new FormData();
  for (const [name, value] of Object.entries({ path, ...fields })) form.append(name, value);
  form.append("file", new Blob([content]), "x");
  const response = await agent.fetch("POST", "/files/upload", { body: form });
  const body = (await response.json()) as Record<string, unknown>;
  return { status: response.status, headers: response.headers, body };
}

const write = (path: string, content: string, more: Record<string, unknown> = {}) =>
  agent.call("POST", "/files/write", { path, content, ...more });
const makeDirectory = (path: string) => agent.call("POST", "/files/mkdir", { path });
const remove = (path: string) => agent.call("DELETE", `/files/remove?${query(path)}`);

describe("every call that changes files answers alike", () => {
  const FULL = "400 FILE_OPERATION_FAILED the disk is full; remove something first";
  const READ_ONLY = /^403 PERMISSION_DENIED .*read-only/i;

  test("on a full disk, and leaves nothing behind", async () => {
    const full = agent.workspace("full");
    await mount(full, "size=64k,nr_inodes=3");
    await writeFile(`${full}/one`, "1");
    await writeFile(`${full}/two`, "2");
    expect(answer(await makeDirectory(`${full}/new`))).toBe(FULL);
    expect(answer(await makeDirectory(`${full}/new/deep/er`))).toBe(FULL);
    expect(answer(await write(`${full}/new`, "x"))).toBe(FULL);
    expect(answer(await write(`${full}/a/new`, "x"))).toBe(FULL);
    expect(answer(await upload(`${full}/new`, "x"))).toBe(FULL);
    expect(answer(await write(`${full}/one`, "x".repeat(100_000)))).toBe(FULL);
    expect((await readdir(full)).sort()).toEqual(["one", "two"]);
    expect(await readFile(`${full}/one`, "utf8")).toBe("1");
    expect((await remove(`${full}/one`)).status).toBe(200);
    expect((await makeDirectory(`${full}/new`)).status).toBe(200);
  });

  test("where a file that is not whole cannot be kept", async () => {
    await mount(`${agent.root}/var/lib/torpor`, "size=64k,nr_inodes=1");
    expect(answer(await write("x", "x"))).toBe(FULL);
    expect(answer(await upload("x", "x"))).toBe(FULL);
  });

  test("on a read-only file system", async () => {
    const path = agent.workspace("read-only");
    await mount(path, "size=64k");
    await mkdir(`${path}/tree/below`, { recursive: true });
    await writeFile(`${path}/file`, "");
    await mounting(`mount -o remount,ro ${path}`);
    for (const result of [
      await write(`${path}/new`, "x"),
      await write(`${path}/file`, "x"),
      await upload(`${path}/new`, "x"),
      await makeDirectory(`${path}/new/er`),
      await remove(`${path}/file`),
      await remove(`${path}/tree`),
    ])
      expect(answer(result)).toMatch(READ_ONLY);
  });

  test("for a name that is too long, and takes the longest", async () => {
    const [long, longest] = ["x".repeat(256), "y".repeat(255)];
    for (const result of [
      await write(long, "x"),
      await upload(long, "x"),
      await makeDirectory(`a/${long}/b`),
      await remove(long),
    ])
      expect(answer(result)).toMatch(/^400 INVALID_PATH .*longer than 255 bytes/);
    const deep = Array.from({ length: 20 }, () => longest).join("/");
    expect(answer(await makeDirectory(deep))).toMatch(/^400 INVALID_PATH .*4095/);
    expect((await write(longest, "x")).status).toBe(200);
    expect((await remove(longest)).status).toBe(200);
  });

  test.each([
    ["ENOSPC", 400, "FILE_OPERATION_FAILED", "disk is full"],
    ["EDQUOT", 400, "FILE_OPERATION_FAILED", "disk is full"],
    ["EROFS", 403, "PERMISSION_DENIED", "/x: the file system is read-only"],
    ["EACCES", 403, "PERMISSION_DENIED", "/x: permission denied"],
    ["EMFILE", 429, "RESOURCE_LIMIT_ERROR", "too many files"],
    ["ENFILE", 429, "RESOURCE_LIMIT_ERROR", "too many files"],
    ["ENAMETOOLONG", 400, "INVALID_PATH", "/x: a name is longer"],
    ["EBUSY", 400, "FILE_OPERATION_FAILED", "/x: in use"],
    ["EIO", 400, "FILE_OPERATION_FAILED", "/x: what the kernel said"],
  ])("for %s of the kernel", async (code, status, name, text) => {
    const failing = async () => {
      throw Object.assign(new Error("what the kernel said"), { code });
    };
    await expect(withFileErrors("/x", failing)).rejects.toMatchObject({
      status,
      code: name,
      message: expect.stringContaining(text),
    });
  });
});

describe("a directory is removed with all that is in it", () => {
  /** Uses a program that descends with its working directory. */
  const nest = (path: string, levels: number, name: string) =>
    execFileSync("python3", [
      "-c",
      "import os, sys\n_, top, levels, name = sys.argv\nos.mkdir(top); os.chdir(top)\n" +
        "for _ in range(int(levels)):\n  open('file', 'w').close(); os.mkdir(name); os.chdir(name)",
      path,
      String(levels),
      name,
    ]);

  test.each([
    [400, "directory-of-some-length"],
    [3_000, "n"],
  ])("%i deep", async (levels, name) => {
    nest(agent.workspace("nested"), levels, name);
    expect(await remove("nested")).toMatchObject({ status: 200, body: { success: true } });
    expect(await lstat(agent.workspace("nested")).catch(() => "gone")).toBe("gone");
  });

  test("whatever it is called", async () => {
    for (const name of ["-rf", "a\nb", "'quoted' \"twice\"", " "]) {
      await mkdir(agent.workspace(`odd/${name}/in`), { recursive: true });
      expect((await remove(agent.workspace(`odd/${name}`))).status).toBe(200);
    }
    expect(await readdir(agent.workspace("odd"))).toEqual([]);
  });

  test("or the answer says what could not be", async () => {
    await mount(agent.workspace("held/mounted"), "size=64k");
    expect(answer(await remove("held"))).toMatch(
      /^400 FILE_OPERATION_FAILED .*held could not be removed, or not all of it: .*mounted.*busy$/,
    );
  });
});

describe("mode and owner", () => {
  const facts = async (path: string) => {
    const { mode, uid, gid } = await stat(path);
    return `${(mode & 0o7777).toString(8)} ${uid}:${gid}`;
  };
  const PUT: [string, (path: string, more?: Record<string, string>) => Promise<ReceivedAnswer>][] =
    [
      ["write", (path, more) => write(path, "new", more)],
      ["upload", (path, more) => upload(path, "new", more)],
    ];

  describe.each(PUT)("of a %s", (call, put) => {
    const at = (name: string) => agent.workspace(call, name);
    const before = async (name: string, mode: number) => {
      await mkdir(agent.workspace(call), { recursive: true });
      await writeFile(at(name), "old");
      await chown(at(name), 1234, 5678);
      await chmod(at(name), mode);
    };

    test.each(["755", "600", "4755", "2755", "444", "0"])(
      "over one of mode %s stay",
      async (mode) => {
        await before("file", Number.parseInt(mode, 8));
        expect((await put(at("file"))).status).toBe(200);
        expect(await facts(at("file"))).toBe(`${mode} 1234:5678`);
        expect(await readFile(at("file"), "utf8")).toBe("new");
      },
    );

    test("over one with a mode are that mode, and the owner from before", async () => {
      await before("file", 0o755);
      await put(at("file"), { mode: "0640" });
      expect(await facts(at("file"))).toBe("640 1234:5678");
    });

    test("of a new file are 0644, or what is asked for, and the caller's", async () => {
      await put(at("new/plain"));
      await put(at("new/asked"), { mode: "0755" });
      expect(await facts(at("new/plain"))).toBe("644 0:0");
      expect(await facts(at("new/asked"))).toBe("755 0:0");
      await mkdir(at("shared"));
      await chown(at("shared"), 0, 5678);
      await chmod(at("shared"), 0o2775);
      await put(at("shared/file"));
      expect(await facts(at("shared/file"))).toBe("644 0:5678");
    });

    test("through a link are the target's, and the link stays one", async () => {
      await before("target", 0o750);
      await symlink("target", at("link"));
      await put(at("link"));
      expect((await lstat(at("link"))).isSymbolicLink()).toBe(true);
      expect(await facts(at("target"))).toBe("750 1234:5678");
      expect(await readFile(at("target"), "utf8")).toBe("new");
    });

    test("on another file system stay too, and overwrite=false holds there", async () => {
      await mount(at("other"), "size=64k");
      await before("other/file", 0o4711);
      expect((await put(at("other/file"))).status).toBe(200);
      expect(await facts(at("other/file"))).toBe("4711 1234:5678");
      const overwrite = (call === "write" ? false : "false") as string;
      expect((await put(at("other/file"), { overwrite })).status).toBe(409);
      expect((await put(at("other/new"), { overwrite })).status).toBe(200);
      expect((await readdir(at("other"))).sort()).toEqual(["file", "new"]);
    });
  });
});
