/** The names of a sandbox over its starts: the user's changes stay. */
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type NamePlaces, type Names, writeNames } from "../src/system/names.ts";

const LOOPBACK = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
const OURS: Names = { hostname: "sb1", machineId: "a".repeat(32) };

let root: string;
let places: NamePlaces;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "torpor-names-"));
  places = { etcDir: join(root, "etc"), namesFile: join(root, "var/lib/torpor/names.json") };
  await mkdir(places.etcDir);
  await write("hosts", LOOPBACK);
  await write("machine-id", "");
});
afterEach(async () => await rm(root, { recursive: true, force: true }));

const write = (name: string, text: string) => writeFile(join(places.etcDir, name), text);
const text = (name: string) => readFile(join(places.etcDir, name), "utf8").catch(() => undefined);
const all = async () => ({
  hostname: await text("hostname"),
  hosts: await text("hosts"),
  machineId: await text("machine-id"),
});
const start = (names = OURS) => writeNames(places, names);
const STARTED = {
  hostname: "sb1\n",
  hosts: `${LOOPBACK}127.0.1.1\tsb1\n`,
  machineId: `${OURS.machineId}\n`,
};

describe("a first start", () => {
  test.each([
    ["with what the image brings", async () => {}],
    ["with the names of an image's maker", async () => await write("hostname", "builder\n")],
    [
      "with a record that is none",
      async () => {
        await mkdir(join(root, "var/lib/torpor"), { recursive: true });
        await writeFile(places.namesFile, "[");
      },
    ],
  ])("%s sets them all", async (_name, make) => {
    await make();
    expect(start()).toBe("sb1");
    expect(await all()).toEqual(STARTED);
  });

  test("with nothing there sets them too", async () => {
    await rm(places.etcDir, { recursive: true });
    expect(start()).toBe("sb1");
    expect(await all()).toEqual(STARTED);
  });

  test("of a disk that an earlier version started changes nothing", async () => {
    const hosts = `127.0.1.1\tsb1\n${LOOPBACK}10.0.0.1 mine\n`;
    await write("hosts", hosts);
    await write("hostname", "sb1\n");
    expect(start()).toBe("sb1");
    expect(await text("hosts")).toBe(hosts);
  });
});

describe("a later start", () => {
  beforeEach(() => {
    start();
  });

  test("changes nothing", async () => {
    expect(start()).toBe("sb1");
    expect(await all()).toEqual(STARTED);
  });

  test.each([
    ["a line that was added", `${STARTED.hosts}10.0.0.7 db\n`],
    ["a name that was added to ours", STARTED.hosts.replace("\tsb1", "\tsb1 alias")],
    ["ours taken out", LOOPBACK],
    ["all taken out", ""],
    ["no newline at its end", "1.2.3.4 x"],
  ])("keeps /etc/hosts with %s", async (_name, hosts) => {
    await write("hosts", hosts);
    start();
    expect(await text("hosts")).toBe(hosts);
  });

  test.each([
    ["box\n", "box"],
    ["# mine\n\n  box.example.org \n", "box.example.org"],
    ["", "sb1"],
    ["not a name\n", "sb1"],
    [`${"x".repeat(65)}\n`, "sb1"],
  ])("takes the machine's name from /etc/hostname: %j", async (hostname, expected) => {
    await write("hostname", hostname);
    expect(start()).toBe(expected);
    expect(await text("hostname")).toBe(hostname);
    expect(await text("hosts")).toBe(STARTED.hosts);
  });

  test("does not put back what was removed", async () => {
    for (const name of ["hostname", "hosts", "machine-id"]) await rm(join(places.etcDir, name));
    expect(start()).toBe("sb1");
    expect(await all()).toEqual({ hostname: undefined, hosts: undefined, machineId: undefined });
  });

  test("keeps a machine id of the user's", async () => {
    await write("machine-id", `${"b".repeat(32)}\n`);
    start();
    expect(await text("machine-id")).toBe(`${"b".repeat(32)}\n`);
  });

  test("NM2: under another name replaces ours, and only ours", async () => {
    await write("hosts", `${STARTED.hosts}10.0.0.7 db\n`);
    const next = { hostname: "sb2", machineId: "c".repeat(32) };
    expect(start(next)).toBe("sb2");
    expect(await all()).toEqual({
      hostname: "sb2\n",
      hosts: `${LOOPBACK}127.0.1.1\tsb2\n10.0.0.7 db\n`,
      machineId: `${"c".repeat(32)}\n`,
    });
    expect(start()).toBe("sb1");
    expect(await text("hosts")).toBe(`${STARTED.hosts}10.0.0.7 db\n`);
  });

  test("after one that could not write tries again", async () => {
    await rm(root, { recursive: true });
    await mkdir(join(root, "etc/hostname"), { recursive: true });
    await write("hosts", LOOPBACK);
    expect(start()).toBe("sb1");
    await rm(join(root, "etc/hostname"), { recursive: true });
    expect(start()).toBe("sb1");
    expect(await all()).toEqual(STARTED);
  });
});
