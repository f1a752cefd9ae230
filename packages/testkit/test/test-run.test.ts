/** What belongs to a test run, and the state of the run; nothing of others is ever included. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { tempDir } from "../src/basics.ts";
import * as belongs from "../src/test-run/belongs.ts";
import { endAll, type Thing } from "../src/test-run/end-all.ts";
import { parseLeftovers, readLeftovers, recordLeftover } from "../src/test-run/leftovers.ts";

const RUN = "/srv/torpor/.torpor/runs/a1b2c3";
const OTHER_RUN = "/srv/torpor/.torpor/runs/a1b2c4";
const OWN = 100;

describe("a run", () => {
  const here = { bootId: "this boot", pidNamespace: "pid:[1]", uid: 1000 };
  const runner = { pid: 7, startTime: "70", bootId: "this boot", pidNamespace: "pid:[1]" };
  const run = { record: runner, isRunnerAlive: false, ownerUid: 1000 };
  function standing(seen: Partial<belongs.SeenRun>, uid = here.uid): string {
    return belongs.standingOf({ ...run, ...seen }, { ...here, uid });
  }

  test("is killed when its runner is dead or has left no word, also after a reboot", () => {
    expect(standing({})).toBe("killed");
    expect(standing({ record: undefined })).toBe("killed");
    const earlier = { ...runner, bootId: "earlier boot", pidNamespace: "pid:[2]" };
    expect(standing({ record: earlier, isRunnerAlive: true })).toBe("killed");
  });

  test("is left alone while its runner lives, be it another user's", () => {
    expect(standing({ isRunnerAlive: true })).toBe("alive");
    expect(standing({ isRunnerAlive: true, ownerUid: 0 })).toBe("alive");
    expect(standing({ isRunnerAlive: true, ownerUid: 1000 }, 0)).toBe("alive");
  });

  test("is left alone where nobody can say whether its runner lives", () => {
    expect(standing({ record: { ...runner, pidNamespace: "pid:[2]" } })).toBe("elsewhere");
  });

  test("of another user is root's to sweep, and nobody else's", () => {
    expect(standing({ ownerUid: 0 })).toBe("foreign");
    expect(standing({ ownerUid: 0, record: undefined })).toBe("foreign");
    expect(standing({ ownerUid: 1000 }, 0)).toBe("killed");
  });
});

describe("a directory is named", () => {
  test.each([
    RUN,
    `${RUN}/tmp`,
    `TMPDIR=${RUN}/tmp`,
    `A=/usr/bin:${RUN}/bin:/bin`,
    `{"dir":"${RUN}"}`,
    `file://${RUN}/a.ts`,
    `${RUN}4 ${RUN}`,
  ])("in %s", (text) => {
    expect(belongs.mentions(text, RUN)).toBe(true);
  });

  const others = ["", "/srv/torpor/.torpor/runs", OTHER_RUN];
  const alike = [`${RUN}4/tmp`, `${RUN}-1`, `/mnt${RUN}`];
  test.each([...others, ...alike])("not in %s", (text) => {
    expect(belongs.mentions(text, RUN)).toBe(false);
  });
});

describe("processes of a run", () => {
  const named = (pid: number, more: Partial<belongs.SeenProcess> = {}): belongs.SeenProcess => ({
    pid,
    startTime: String(pid),
    bootId: "this boot",
    parent: 1,
    hasTerminal: false,
    cwd: "/",
    args: ["sleep", "60"],
    env: ["PATH=/bin", "TMPDIR=/tmp"],
    outputs: ["/dev/null", "/dev/null"],
    netNamespace: "net:[1]",
    ...more,
  });
  const run = { places: [RUN, "/tmp/torpor-test-f00"], netNamespaces: ["net:[2]"] };
  const found = (...seen: belongs.SeenProcess[]) => {
    const pids = belongs.processesOf(run, [named(OWN), ...seen], OWN).map(({ pid }) => pid);
    return pids.toSorted((a, b) => a - b);
  };
  const ofTheRun = { env: [`TMPDIR=${RUN}/tmp`] };

  test("name it, work in it, write to it, or are in a network of its own", () => {
    const seen = [
      named(11, ofTheRun),
      named(12, { args: ["postgres", "-D", `${RUN}/tmp/pg`] }),
      named(13, { cwd: `${RUN}/tmp/vm` }),
      named(14, { cwd: RUN }),
      named(15, { outputs: ["/dev/null", `${RUN}/tmp/log`] }),
      named(16, { netNamespace: "net:[2]" }),
      named(17, { args: ["python3", "/tmp/torpor-test-f00/guest.sock"] }),
    ];
    expect(found(...seen)).toEqual([11, 12, 13, 14, 15, 16, 17]);
  });

  test("are with them all that they have started, and what that has", () => {
    const [child, grandchild] = [named(12, { parent: 11 }), named(13, { parent: 12 })];
    expect(found(named(11, ofTheRun), child, grandchild, named(14))).toEqual([11, 12, 13]);
  });

  test("are not those of another run or another checkout, or beside it", () => {
    const seen = [
      named(11, { env: [`TMPDIR=${OTHER_RUN}/tmp`] }),
      named(12, { cwd: `${RUN}.kept` }),
      named(13, { cwd: "/srv/torpor/.torpor/runs" }),
      named(14, { args: ["cat", `/mnt${RUN}/log`] }),
      named(15, { cwd: `/mnt${RUN}` }),
    ];
    expect(found(...seen)).toEqual([]);
  });

  test("are not of those who sit before a terminal and look at what is left", () => {
    const atTerminal = { hasTerminal: true };
    const seen = [
      named(11, { ...atTerminal, cwd: `${RUN}/tmp` }),
      named(12, { ...atTerminal, args: ["tail", "-f", `${RUN}/tmp/log`] }),
      named(13, { env: [`OLDPWD=${RUN}/tmp`, `PWD=${RUN}`, `_=${RUN}/tmp/program`] }),
    ];
    expect(found(...seen)).toEqual([]);
    expect(found(named(11, { ...atTerminal, ...ofTheRun }))).toEqual([11]);
  });

  test("are not who asks and who started that, but what these have started for the run", () => {
    const seen = [
      named(50, ofTheRun),
      named(OWN, { parent: 50, ...ofTheRun }),
      named(60, { parent: 50 }),
      named(61, { parent: 50, ...ofTheRun }),
      named(62, { parent: OWN }),
    ];
    expect(belongs.processesOf(run, seen, OWN).map(({ pid }) => pid)).toEqual([61]);
  });
});

test("mounts of a run are those below its directory, the last one first", () => {
  const mountinfo = [
    "22 1 8:1 / / rw - ext4 /dev/sda rw",
    `30 22 7:0 / ${RUN}/tmp/a\\040b\\134 rw - xfs /dev/loop0 rw`,
    `31 30 0:5 / ${RUN}/tmp/a\\040b\\134/inner rw shared:1 - tmpfs tmpfs rw`,
    `32 22 0:6 / ${RUN}4/tmp rw - tmpfs tmpfs rw`,
    "",
  ].join("\n");
  const mount = `${RUN}/tmp/a b\\`;
  expect(belongs.mountsOf([RUN], mountinfo)).toEqual([`${mount}/inner`, mount]);
});

describe("things are ended", () => {
  const left = new Map<string, Thing>();
  const list = () => [...left.values()];
  const add = (name: string, end: Thing["end"]) => left.set(name, { name, end });
  afterEach(() => {
    left.clear();
  });

  test("until none is left: also what is busy at first, and what appears meanwhile", async () => {
    let tries = 0;
    add("mount", () => {
      tries += 1;
      if (tries === 1) throw new Error("busy");
      left.delete("mount");
    });
    add("parent", () => {
      left.delete("parent");
      add("child", () => void left.delete("child"));
    });
    expect(await endAll(list)).toBe(3);
  });

  test("and what stays is named, with the reason", async () => {
    const cause = new Error("target is busy");
    add("mount /a", async () => await Promise.reject(cause));
    add("mount /b", () => {});
    await expect(endAll(list, 0)).rejects.toMatchObject({ message: "mount /a, mount /b", cause });
  });
});

describe("what is written down", () => {
  test("is read again by kind, each name once; a line that was cut off names nothing", () => {
    const lines = [
      { kind: "namespace", name: "tt0a1bn0" },
      { kind: "cgroup", name: "/sys/fs/cgroup/torpor-abcdef" },
      { kind: "namespace", name: "tt0a1bn0" },
      { kind: "namespace", name: "torpor-test-1-uplink" },
    ].map((line) => JSON.stringify(line));
    const none = { namespace: [], link: [], cgroup: [], directory: [], host: [], fleet: [] };
    expect(parseLeftovers(`${lines.join("\n")}\n{"kind":"namespace","na`)).toEqual({
      ...none,
      namespace: ["tt0a1bn0", "torpor-test-1-uplink"],
      cgroup: ["/sys/fs/cgroup/torpor-abcdef"],
    });
    expect(parseLeftovers("")).toEqual(none);
  });

  test("by a run within a run is read with it", async () => {
    await using outer = await tempDir();
    const inner = join(outer.path, "tmp/copy");
    await mkdir(inner, { recursive: true });
    const names = ["/dev/shm/torpor-test-a1", "/dev/shm/torpor-test-b2"];
    for (const [at, dir] of [outer.path, inner].entries())
      await writeFile(
        join(dir, "leftovers.jsonl"),
        `${JSON.stringify({ kind: "directory", name: names[at] })}\n`,
      );
    expect(readLeftovers(outer.path).directory).toEqual(names);
  });

  test.each([
    { kind: "namespace", name: "cni-1234" },
    { kind: "link", name: "eth0" },
    { kind: "cgroup", name: "/sys/fs/cgroup/system.slice" },
    { kind: "directory", name: "/" },
    { kind: "directory", name: "/tmp/torpor-test-f00/../../home" },
  ] as const)("has a name that tests give: not the $kind $name", (leftover) => {
    expect(() => recordLeftover(leftover)).toThrow(/of tests is not called/);
    expect(Object.values(parseLeftovers(JSON.stringify(leftover))).flat()).toEqual([]);
  });
});
