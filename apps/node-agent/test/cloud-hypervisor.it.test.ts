/**
 * The driver of Cloud Hypervisor under a supervisor, on the fake: what goes wrong in a VMM, and
 * what the sandbox's owner reads about it. Whatever fails, the sandbox runs on or stays paused, and
 * nothing half-made is left.
 */
import { once } from "node:events";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { mkdir, open, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Observation, VmCommand } from "@torpor/contracts";
import { type Fault, setFaults } from "@torpor/fake-cloud-hypervisor";
import { signalProcess } from "@torpor/service";
import { tempDir, until } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type {
  CloudHypervisorDriver,
  VmmLimits,
} from "../src/drivers/cloud-hypervisor/cloud-hypervisor.ts";
import { fakeCloudHypervisor } from "./support/drivers.ts";
import { sha256Hex } from "../src/store/format.ts";
import {
  commandsOf,
  type Kind,
  prepareImages,
  SANDBOX,
  TestHost,
  vmmProcesses,
} from "./support/test-host.ts";

/** Short limits, for faults in which a VMM never replies; no other test comes near them. */
const HASTY: Partial<VmmLimits> = {
  status: 1_500,
  verb: 5_000,
  transfer: 4_000,
  transferPer100Mib: 0,
};

let root: Awaited<ReturnType<typeof tempDir>>;
let imageSha256: string;
beforeAll(async () => {
  root = await tempDir();
  imageSha256 = await prepareImages(join(root.path, "images"), fakeCloudHypervisor());
});
afterAll(async () => {
  await root[Symbol.asyncDispose]();
});

interface Bench {
  host: TestHost;
  driver: CloudHypervisorDriver;
  dir: string;
  /** Completes the next command of the sandbox. */
  next(): Promise<Observation>;
  /** Ends the agent, changes its files, and lets another agent take over. */
  between(change: () => Promise<void>): Promise<void>;
}

let hosts = 0;
/** A sandbox that has completed `before` and remembers x = 42; the test then requests `after`. */
async function withSandbox(
  options: {
    before?: Kind[];
    after: Kind[];
    limits?: Partial<VmmLimits>;
    parent?: string;
    memoryMib?: number;
  },
  body: (bench: Bench) => Promise<void>,
): Promise<void> {
  hosts += 1;
  const dir = join(root.path, options.parent ?? "", `host-${hosts}`);
  await mkdir(dir, { recursive: true });
  const driver = fakeCloudHypervisor(options.limits);
  const start = () => new TestHost(dir, driver, undefined, join(root.path, "images"));
  const commands = commandsOf(
    ["create", ...(options.before ?? []), ...options.after],
    imageSha256,
    options.memoryMib,
  );
  const bench: Bench = {
    host: start(),
    driver,
    dir,
    next: async () => await bench.host.complete(commands.shift() as VmCommand),
    between: async (change) => {
      await bench.host.close();
      await change();
      bench.host = start();
      await bench.host.supervisor.adopt();
    },
  };
  try {
    await bench.host.supervisor.adopt();
    expect(await bench.next()).toMatchObject({ state: "running" });
    await bench.host.guest("/execute", { code: "x = 42" });
    for (const kind of options.before ?? [])
      expect(await bench.next(), kind).toMatchObject({ operation: { outcome: "succeeded" } });
    await body(bench);
  } finally {
    await bench.host.end();
  }
}

async function leftovers({ host }: Bench): Promise<string[]> {
  const names = await readdir(host.vm.dir);
  const exchanged = await Promise.all(
    ["out", "restore"].map((name) => readdir(join(host.vm.dir, name)).catch(() => [])),
  );
  return [...names.filter((name) => /\.tmp$|^op\.json$|^snap\./.test(name)), ...exchanged.flat()];
}

async function expectMemory({ host }: Bench): Promise<void> {
  expect(await host.guest("/execute", { code: "print(x)" })).toMatchObject({ stdout: "42\n" });
}

describe("a pause that goes wrong", () => {
  const cases: [string, Fault[], RegExp][] = [
    ["the file system is full", [{ kind: "no-space" }], /No space left on device/],
    [
      "half of config.json is written, and nobody notices",
      [{ kind: "short-config" }],
      /config\.json was not written as a whole/,
    ],
  ];
  test.each(cases)(
    "P1, ME1: %s: the sandbox runs on with its memory, and says why",
    async (_name, faults, reason) => {
      await withSandbox({ after: ["pause"] }, async (bench) => {
        await setFaults(bench.host.vm.dir, faults);
        const end = await bench.next();
        expect(end).toMatchObject({
          state: "running",
          operation: { outcome: "failed", error: { code: "PAUSE_FAILED" } },
        });
        expect(end.operation?.error?.message).toMatch(reason);
        expect(await leftovers(bench)).toEqual([]);
        await expectMemory(bench);
      });
    },
  );

  test("it hangs longer than it is waited for: no harm is done to it, and once it answers again the sandbox runs on", async () => {
    await withSandbox({ after: ["pause"], limits: HASTY }, async (bench) => {
      await setFaults(bench.host.vm.dir, [
        { kind: "slow", call: "vm.snapshot", ms: 9_000, times: 1 },
      ]);
      const end = await bench.next();
      expect(end).toMatchObject({
        state: "running",
        operation: { outcome: "failed", error: { code: "PAUSE_FAILED" } },
      });
      expect(end.operation?.error?.message).toMatch(/no answer within 4000 ms/);
      void bench.host.supervisor.watch();
      await until(
        "the sandbox runs",
        async () => (await bench.driver.inspect(bench.host.vm)).kind === "running",
        40_000,
      );
      await expectMemory(bench);
      expect(await leftovers(bench)).toEqual([]);
    });
  });

  test("it dies: the memory is lost, the files are kept, and the sandbox starts again", async () => {
    await withSandbox({ after: ["pause", "start"] }, async (bench) => {
      await bench.host.guest("/files/write", { path: "/workspace/note", content: "kept" });
      await setFaults(bench.host.vm.dir, [{ kind: "die", call: "vm.snapshot", when: "during" }]);
      const end = await bench.next();
      expect(end).toMatchObject({
        state: "stopped",
        operation: { outcome: "failed", error: { code: "MEMORY_LOST" } },
      });
      expect(end.operation?.error?.message).toMatch(/Cloud Hypervisor was killed \(SIGKILL\)/);
      expect(await leftovers(bench)).toEqual([]);
      await setFaults(bench.host.vm.dir, []);
      expect(await bench.next()).toMatchObject({ state: "running" });
      expect(await bench.host.guest("/files/read", { path: "/workspace/note" })).toMatchObject({
        content: "kept",
      });
    });
  });
});

describe("answers that do not come", () => {
  const LOST: [string, Kind[], Kind[]][] = [
    ["vm.pause", [], ["pause"]],
    ["vm.snapshot", [], ["pause", "resume"]],
    ["vm.restore", ["pause"], ["resume"]],
    ["vm.resume", ["pause"], ["resume"]],
    ["vm.create", ["stop"], ["start"]],
    ["vm.boot", ["stop"], ["start"]],
  ];
  test.each(LOST)(
    "CH1: the answer to %s is lost: what was asked for has come true all the same",
    async (call, before, after) => {
      // Not of the golden snapshot's size: a start boots.
      await withSandbox({ before, after, memoryMib: 48 }, async (bench) => {
        await setFaults(bench.host.vm.dir, [{ kind: "lose-response", call, times: 1 }]);
        for (const kind of after)
          expect(await bench.next(), kind).toMatchObject({ operation: { outcome: "succeeded" } });
        if (after.at(-1) === "resume") await expectMemory(bench);
      });
    },
  );

  test("503 of too many connections is waited out", async () => {
    await withSandbox({ after: ["pause", "resume"] }, async (bench) => {
      await setFaults(bench.host.vm.dir, [{ kind: "busy", times: 5 }]);
      expect(await bench.next()).toMatchObject({ state: "paused" });
      expect(await bench.next()).toMatchObject({ state: "running" });
      await expectMemory(bench);
    });
  });
});

describe("a resume that goes wrong", () => {
  test("S2: the VMM dies once it has restored: nothing ran, and the next try resumes it", async () => {
    await withSandbox({ before: ["pause"], after: ["resume", "resume"] }, async (bench) => {
      await setFaults(bench.host.vm.dir, [{ kind: "die", call: "vm.restore", when: "answered" }]);
      const end = await bench.next();
      expect(end).toMatchObject({
        state: "paused",
        operation: { outcome: "failed", error: { code: "RESUME_FAILED" } },
      });
      expect(vmmProcesses(bench.dir)).toEqual([]);
      // The snapshot is being copied to the store again, which needs temporary files.
      await until(
        "its snapshot is all that is left",
        async () => (await leftovers(bench)).join() === "snap.1",
      );
      await setFaults(bench.host.vm.dir, []);
      expect(await bench.next()).toMatchObject({ state: "running" });
      await expectMemory(bench);
    });
  });

  test("SN2: the VMM dies past the point of no return, before it ran: it may have run, so it is stopped, with its files and the cause", async () => {
    await withSandbox({ before: ["pause"], after: ["resume"] }, async (bench) => {
      await setFaults(bench.host.vm.dir, [{ kind: "die", call: "vm.resume", when: "before" }]);
      const end = await bench.next();
      expect(end).toMatchObject({
        state: "stopped",
        operation: { outcome: "failed", error: { code: "MEMORY_LOST" } },
      });
      expect(end.cause?.message).toMatch(/Cloud Hypervisor was killed \(SIGKILL\)/);
      expect(vmmProcesses(bench.dir)).toEqual([]);
      expect(await leftovers(bench)).toEqual([]);
    });
  });

  test("the VMM hangs in the restore: the snapshot is untouched, and the next try resumes it", async () => {
    await withSandbox(
      { before: ["pause"], after: ["resume", "resume"], limits: HASTY },
      async (bench) => {
        await setFaults(bench.host.vm.dir, [{ kind: "hang", call: "vm.restore", when: "before" }]);
        const end = await bench.next();
        expect(end).toMatchObject({
          state: "paused",
          operation: { outcome: "failed", error: { code: "RESUME_FAILED" } },
        });
        expect(vmmProcesses(bench.dir)).toEqual([]);
        await setFaults(bench.host.vm.dir, []);
        expect(await bench.next()).toMatchObject({ state: "running" });
        await expectMemory(bench);
      },
    );
  });

  const damages: [string, (snapshot: string) => Promise<void>, RegExp][] = [
    [
      "a bit of its memory is flipped",
      async (snapshot) => await overwrite(join(snapshot, "memory-ranges"), 4_096),
      /"memory-ranges" is damaged/,
    ],
    [
      "its memory is cut",
      async (snapshot) => await cut(join(snapshot, "memory-ranges")),
      /"memory-ranges" has \d+ bytes, its manifest says/,
    ],
    [
      "a file of it is missing",
      async (snapshot) => await rm(join(snapshot, "state.json")),
      /"state\.json" is missing/,
    ],
    [
      "its device state is damaged",
      async (snapshot) => await overwrite(join(snapshot, "state.json"), 3),
      /"state\.json" is damaged/,
    ],
    [
      "it is another sandbox's",
      (snapshot) => edited(join(snapshot, "manifest.json"), SANDBOX, "1795490791zzzzzzzz"),
      /it is of another sandbox, 1795490791zzzzzzzz/,
    ],
    [
      "it is an older one of its own",
      (snapshot) => edited(join(snapshot, "manifest.json"), '"generation":1', '"generation":0'),
      /it is of generation 0, not 1/,
    ],
    [
      "its manifest was changed",
      (snapshot) =>
        edited(join(snapshot, "manifest.json"), '"guestSynced":true', '"guestSynced":false'),
      /its manifest is not the one that was written/,
    ],
    [
      "its manifest is JSON, and none",
      (snapshot) => writeFile(join(snapshot, "manifest.json"), "null"),
      /its manifest cannot be read/,
    ],
    [
      "its manifest is cut",
      (snapshot) => cut(join(snapshot, "manifest.json")),
      /its manifest cannot be read/,
    ],
  ];
  test.each(damages)(
    "%s: it is refused before anything ran, and the sandbox stays paused",
    async (_name, damage, reason) => {
      await withSandbox({ before: ["pause"], after: ["resume"] }, async (bench) => {
        await damage(join(bench.host.vm.dir, "snap.1"));
        const end = await bench.next();
        expect(end).toMatchObject({ state: "paused", operation: { outcome: "failed" } });
        expect(end.operation?.error?.message).toMatch(reason);
        expect(vmmProcesses(bench.dir)).toEqual([]);
        // The snapshot is being copied to the store again, which needs temporary files.
        await until(
          "its snapshot is all that is left",
          async () => (await leftovers(bench)).join() === "snap.1",
        );
      });
    },
  );

  const origins: [string, [string, string], RegExp][] = [
    [
      "a Cloud Hypervisor wrote it that is not installed",
      ["/53.0.0/", "/52.0.0/"],
      /needs Cloud Hypervisor 52\.0\.0/,
    ],
    ["it was written on another CPU", ["fake-1-1-1", "fake-2-1-1"], /another CPU/],
    ["another VMM wrote it", ["cloud-hypervisor/", "qemu/"], /another VMM/],
  ];
  test.each(origins)(
    "%s: it is refused, and the sandbox stays paused",
    async (_name, [is, was], reason) => {
      await withSandbox({ before: ["pause"], after: ["resume"] }, async (bench) => {
        await bench.between(() => writtenBy(bench.host.vm.dir, is, was));
        const end = await bench.next();
        expect(end).toMatchObject({
          state: "paused",
          operation: { outcome: "failed", error: { code: "SNAPSHOT_INCOMPATIBLE" } },
        });
        expect(end.operation?.error?.message).toMatch(reason);
        expect(vmmProcesses(bench.dir)).toEqual([]);
      });
    },
  );
});

describe("a VMM that ends, or only seems to", () => {
  const isStopped = ({ host }: Bench) =>
    until("the end is noticed", () => host.seen.findLast(({ state }) => state === "stopped"));

  test("killed: noticed, with its cause", async () => {
    await withSandbox({ after: [] }, async (bench) => {
      void bench.host.supervisor.watch();
      for (const identity of vmmProcesses(bench.dir)) signalProcess(identity, "SIGKILL");
      expect((await isStopped(bench)).cause).toMatchObject({ code: "VMM_KILLED" });
    });
  });

  test("its guest powered off: noticed, and told apart", async () => {
    await withSandbox({ after: [] }, async (bench) => {
      void bench.host.supervisor.watch();
      await bench.host.guest("/_torpor/shutdown", {}).catch(() => {});
      expect((await isStopped(bench)).cause).toMatchObject({ code: "GUEST_POWERED_OFF" });
    });
  });

  test("its guest was reset, and boots anew in the same process: noticed, and nothing of that is taken for the sandbox", async () => {
    await withSandbox({ after: ["pause", "start"] }, async (bench) => {
      await bench.host.guest("/files/write", { path: "/workspace/note", content: "kept" });
      const [identity] = vmmProcesses(bench.dir);
      if (identity === undefined) throw new Error("no VMM runs");
      await put(`/proc/${identity.pid}/cwd/r1/api.sock`, "vm.reboot");
      expect(vmmProcesses(bench.dir)).toEqual([identity]);
      expect(await bench.driver.inspect(bench.host.vm)).toEqual({ kind: "none" });
      const end = await bench.next();
      expect(end).toMatchObject({
        state: "stopped",
        operation: { outcome: "failed", error: { code: "MEMORY_LOST" } },
      });
      expect(end.operation?.error?.message).toMatch(/The guest restarted/);
      expect(vmmProcesses(bench.dir)).toEqual([]);
      expect(await bench.next()).toMatchObject({ state: "running" });
      expect(await bench.host.guest("/files/read", { path: "/workspace/note" })).toMatchObject({
        content: "kept",
      });
      void bench.host.supervisor.watch();
      const [next] = vmmProcesses(bench.dir);
      await put(`/proc/${next?.pid}/cwd/${await runDirOf(bench)}/api.sock`, "vm.reboot");
      await until("it is noticed", () =>
        bench.host.seen.find(
          ({ state, cause }) => state === "stopped" && cause?.code === "GUEST_RESTARTED",
        ),
      );
      await until("its process is gone", () => vmmProcesses(bench.dir).length === 0);
    });
  });

  test("stopped by a signal, or without its socket: it is unknown, it is not touched, and it goes on when it can", async () => {
    await withSandbox({ after: [], limits: HASTY }, async (bench) => {
      const { vm } = bench.host;
      const [identity] = vmmProcesses(bench.dir);
      if (identity === undefined) throw new Error("no VMM runs");
      signalProcess(identity, "SIGSTOP");
      expect(await bench.driver.inspect(vm)).toMatchObject({
        kind: "unknown",
        reason: "no answer within 1500 ms",
      });
      signalProcess(identity, "SIGCONT");
      expect(await bench.driver.inspect(vm)).toMatchObject({ kind: "running" });
      const socket = join(vm.dir, await runDirOf(bench), "api.sock");
      await rename(socket, `${socket}.away`);
      expect(await bench.driver.inspect(vm)).toMatchObject({
        kind: "unknown",
        reason: expect.stringContaining("ENOENT") as string,
      });
      await rename(`${socket}.away`, socket);
      await expectMemory(bench);
    });
  });

  test("a directory whose name is too long for a socket is no hindrance", async () => {
    await withSandbox({ after: ["pause", "resume"], parent: "x".repeat(120) }, async (bench) => {
      expect(await bench.next()).toMatchObject({ state: "paused" });
      expect(await bench.next()).toMatchObject({ state: "running" });
      await expectMemory(bench);
      expect(await leftovers(bench)).toEqual([]);
    });
  });
});

async function overwrite(path: string, at: number): Promise<void> {
  const file = await open(path, "r+");
  try {
    await file.write("#", at);
  } finally {
    await file.close();
  }
}

async function cut(path: string): Promise<void> {
  const file = await open(path, "r+");
  try {
    await file.truncate(Math.floor((await file.stat()).size / 2));
  } finally {
    await file.close();
  }
}

async function edited(path: string, is: string, was: string): Promise<void> {
  const text = await readFile(path, "utf8");
  expect(text).toContain(is);
  await writeFile(path, text.replace(is, was));
}

/** Edits the manifest, and its hash in the record. */
async function writtenBy(vmDir: string, is: string, was: string): Promise<void> {
  const manifest = join(vmDir, "snap.1/manifest.json");
  const before = sha256Hex(await readFile(manifest));
  await edited(manifest, is, was);
  await edited(join(vmDir, "vm.json"), before, sha256Hex(await readFile(manifest)));
}

async function runDirOf({ host }: Bench): Promise<string> {
  return (JSON.parse(await readFile(join(host.vm.dir, "run.json"), "utf8")) as { runDir: string })
    .runDir;
}

async function put(socketPath: string, call: string): Promise<void> {
  const request = httpRequest({ socketPath, method: "PUT", path: `/api/v1/${call}` }).end();
  const [response] = (await once(request, "response")) as [IncomingMessage];
  response.resume();
  expect(response.statusCode).toBe(204);
}
