/**
 * Cases for QEMU only: a process that outlives the agent writes its save, and its restore reads the
 * memory while the memory is hashed. Both are aborted in the middle.
 */
import assert from "node:assert/strict";
import {
  mkdir,
  mkdtemp,
  readdir,
  readlink,
  realpath,
  stat,
  symlink,
  truncate,
  writeFile,
} from "node:fs/promises";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { qmp } from "../../src/drivers/qemu/qmp.ts";
import { findLiveRun, socketPathOf } from "../../src/drivers/vmm-process.ts";
import { findGolden } from "../../src/images/golden.ts";
import type { DriverCase } from "./cases.ts";
import { NEVER, type Subject } from "./target.ts";

const LIMIT_MS = 60_000;
/** Reads the first bytes and no more, so that only the driver ends the save. */
const STUCK_WRITER = "#!/bin/sh\nhead -c 65536\nexec sleep 120\n";
/** Size of a file of holes, which takes minutes to hash and no room. */
const ENDLESS_BYTES = 64 * 1024 ** 3;

export const QEMU_CASES: DriverCase[] = [
  {
    name: "a save that is broken off in the middle is over, for its agent and the next, and the guest runs on",
    run: async (subject) => {
      await subject.runWith(42);
      await subject.pause();
      const cancel = new AbortController();
      const cancelled = await stuckSave(subject, cancel.signal);
      cancel.abort(new Error("called off"));
      assert.match(await cancelled.ended, /could not be written/);
      // `failed` if QEMU saw that its writer is gone, `cancelled` if the driver was first.
      assert.match((await migration(subject)) ?? "", /^(failed|cancelled)$/);
      assert.equal(await subject.status(), "paused");

      const orphan = await stuckSave(subject, NEVER);
      await subject.forget();
      await subject.goOn();
      assert.equal(await migration(subject), "cancelled");
      await orphan.ended;
      assert.equal(await subject.remembers(), "42");
      assert.equal(await subject.status(), "running");

      await subject.pause();
      const unheard = await stuckSave(subject, NEVER);
      await subject.forget();
      await subject.driver.callOffSave?.(subject.vm);
      assert.equal(await migration(subject), "cancelled");
      await unheard.ended;
      assert.equal(await subject.status(), "paused");
      await subject.save();
      await subject.goOn();
      assert.equal(await subject.remembers(), "42");
    },
  },
  {
    name: "a restore that is broken off while it hashes leaves no process, whether its memory is loaded or not",
    run: async (subject) => {
      const { dir, memory, saved } = await endlessSnapshot(subject);
      const moments = [
        async () => subject.processes().length > 0,
        // The driver has noticed the load, too: it has closed the memory.
        async () => (await hasLoaded(subject)) && !(await hasOpen(memory)),
      ];
      for (const reached of moments) {
        const cancel = new AbortController();
        const outcome = subject
          .restore({ dir, saved }, cancel.signal)
          .then(({ kind }) => kind, String);
        await until(reached);
        cancel.abort(new Error("called off"));
        assert.match(await outcome, /called off/);
        assert.deepEqual(subject.processes(), []);
      }
    },
  },
];

/** A save that has written some bytes, and never writes the rest. */
async function stuckSave(
  subject: Subject,
  signal: AbortSignal,
): Promise<{ ended: Promise<string> }> {
  const dir = await mkdtemp(join(subject.vm.dir, "stuck-"));
  await writeFile(join(dir, "cat"), STUCK_WRITER, { mode: 0o700 });
  const path = process.env["PATH"] ?? "";
  process.env["PATH"] = [dir, path].join(delimiter);
  try {
    const ended = subject.driver.saveMemory(subject.vm, dir, signal).then(() => "saved", String);
    const size = async () => (await stat(join(dir, "memory"))).size;
    await until(async () => (await size().catch(() => 0)) > 0);
    return { ended };
  } finally {
    process.env["PATH"] = path;
  }
}

/** The image's own memory, and a file beside it that takes a long time to hash. */
async function endlessSnapshot(subject: Subject) {
  const golden = await findGolden(subject.target.image, subject.driver);
  assert.ok(golden !== undefined, "the image has no snapshot of its own");
  const dir = join(subject.vm.dir, "endless");
  await mkdir(dir);
  const memory = await realpath(join(golden.dir, "memory"));
  await symlink(memory, join(dir, "memory"));
  await writeFile(join(dir, "holes"), "");
  await truncate(join(dir, "holes"), ENDLESS_BYTES);
  const files = {
    ...golden.manifest.files,
    holes: { sizeBytes: ENDLESS_BYTES, sha256: "0".repeat(64) },
  };
  return { dir, memory, saved: { files, fingerprint: golden.manifest.driverFingerprint } };
}

/** Status of QEMU's last save or load. */
async function migration({ vm }: Subject): Promise<string | undefined> {
  const run = await findLiveRun(vm);
  if (run === undefined) throw new Error("no VMM runs");
  const monitor = socketPathOf(vm, run, join(run.runDir, "qmp.sock"));
  return (await qmp(monitor, [{ execute: "query-migrate" }])).status;
}

async function hasLoaded(subject: Subject): Promise<boolean> {
  return (await migration(subject).catch(() => undefined)) === "completed";
}

/** True if this process has the file open. */
async function hasOpen(path: string): Promise<boolean> {
  const fds = await readdir("/proc/self/fd");
  const targets = fds.map((fd) => readlink(join("/proc/self/fd", fd)).catch(() => undefined));
  return (await Promise.all(targets)).includes(path);
}

async function until(reached: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + LIMIT_MS;
  while (!(await reached())) {
    if (performance.now() > deadline) throw new Error(`not reached within ${LIMIT_MS} ms`);
    await sleep(5);
  }
}
