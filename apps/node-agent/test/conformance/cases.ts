/**
 * The requirements on every driver (drivers/driver.ts, D1, D2, D4 and D5): each verb once, each
 * verb repeated, each verb with something missing or broken, and what is left after each. A case
 * gets its own VM directory and leaves no process; it throws if the driver fails a requirement.
 */
import assert from "node:assert/strict";
import {
  copyFile,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import { isAlive, signalProcess } from "@torpor/service";
import { NEVER, type Subject, sha256 } from "./target.ts";

export interface DriverCase {
  name: string;
  /** Leaves no VMM, or one that `dispose` ends. */
  run(subject: Subject): Promise<void>;
}

const lifecycle: DriverCase[] = [
  {
    name: "boot runs a guest that answers; a second boot starts over with one process",
    run: async (subject) => {
      assert.equal(await subject.status(), "none");
      assert.equal(await subject.driver.guestAddress(subject.vm), undefined);
      await subject.driver.boot(subject.vm, AbortSignal.timeout(subject.target.bootLimitMs));
      await subject.becomes();
      await subject.execute("x = 1");
      assert.equal(await subject.remembers(), "1");
      const seen = await subject.driver.inspect(subject.vm);
      assert.ok(seen.kind === "running" && seen.residentBytes > 0);
      const first = subject.vmm();
      await subject.driver.boot(subject.vm, AbortSignal.timeout(subject.target.bootLimitMs));
      assert.ok(!isAlive(first), "the first process is gone");
      assert.notEqual(subject.vmm().pid, first.pid);
    },
  },
  {
    name: "pause and resume of the vCPUs can be repeated, and memory is untouched by them",
    run: async (subject) => {
      await subject.runWith(42);
      await subject.pause();
      assert.equal(await subject.status(), "paused");
      await subject.driver.pauseVcpus(subject.vm);
      assert.equal(await subject.status(), "paused");
      await subject.goOn();
      await subject.driver.resumeVcpus(subject.vm);
      assert.equal(await subject.status(), "running");
      assert.equal(await subject.remembers(), "42");
    },
  },
  {
    name: "memory that is saved is on disk as its manifest says, and the VM goes on as if nothing had been",
    run: async (subject) => {
      await subject.runWith(42);
      await subject.pause();
      const { dir, saved } = await subject.save();
      assert.deepEqual((await readdir(dir)).toSorted(), Object.keys(saved.files).toSorted());
      for (const [name, file] of Object.entries(saved.files)) {
        assert.equal((await stat(join(dir, name))).size, file.sizeBytes, name);
        assert.equal(await sha256(join(dir, name)), file.sha256, name);
      }
      assert.equal(saved.fingerprint, await subject.driver.fingerprint());
      assert.equal(await subject.status(), "paused");
      const again = await subject.save("snap.2");
      assert.deepEqual(
        Object.keys(again.saved.files).toSorted(),
        Object.keys(saved.files).toSorted(),
      );
      await subject.goOn();
      assert.equal(await subject.remembers(), "42");
    },
  },
  {
    name: "a saved memory restores in a new process, standing still; twice in a row is as good as once",
    run: async (subject) => {
      await subject.runWith(42);
      await subject.pause();
      const snapshot = await subject.save();
      await subject.driver.end(subject.vm, { graceMs: 0 });
      assert.equal(await subject.status(), "none");
      assert.deepEqual(await subject.restore(snapshot), { kind: "restored" });
      assert.equal(await subject.status(), "paused");
      const first = subject.vmm();
      assert.deepEqual(await subject.restore(snapshot), { kind: "restored" });
      assert.ok(!isAlive(first), "the first process is gone");
      await subject.goOn();
      assert.equal(await subject.remembers(), "42");
    },
  },
  {
    name: "D4: a snapshot restores from another directory, one whose path is too long for a socket's: paths are the VM's own",
    run: async (subject) => {
      await subject.runWith(7);
      await subject.pause();
      const { saved } = await subject.save();
      await subject.driver.end(subject.vm, { graceMs: 0 });
      await subject.moveTo(subject.vm.sandboxId.padEnd(107, "-moved"));
      await subject.forget();
      assert.deepEqual(await subject.restore({ dir: join(subject.vm.dir, "snap.1"), saved }), {
        kind: "restored",
      });
      await subject.goOn();
      assert.equal(await subject.remembers(), "7");
      await subject.pause();
      const again = await subject.save("snap.2");
      assert.deepEqual(await subject.restore(again), { kind: "restored" });
      await subject.goOn();
      assert.equal(await subject.remembers(), "7");
    },
  },
  {
    name: "a VM that was restored for nobody becomes a sandbox's in another directory, and runs, is saved and restores there",
    run: async (subject) => {
      await subject.runWith(7);
      await subject.pause();
      const { saved } = await subject.save();
      assert.deepEqual(await subject.restore({ dir: join(subject.vm.dir, "snap.1"), saved }), {
        kind: "restored",
      });
      const kept = subject.vmm();
      const { sandboxId: hostName } = subject.vm;
      await subject.moveTo(`${hostName}-taken`);
      subject.vm = {
        ...subject.vm,
        sandboxId: `${hostName}-taken`,
        hostName,
        epoch: 3,
        isFenced: true,
      };
      await subject.forget();
      await subject.driver.assign(subject.vm);
      const run = JSON.parse(await readFile(join(subject.vm.dir, "run.json"), "utf8")) as Record<
        string,
        unknown
      >;
      assert.deepEqual([run["pid"], run["epoch"], run["isFenced"]], [kept.pid, 3, true]);
      assert.equal(await subject.status(), "paused");
      await subject.goOn();
      assert.equal(await subject.remembers(), "7");
      assert.deepEqual(subject.vmm(), kept);
      await subject.pause();
      const again = await subject.save("snap.2");
      assert.deepEqual(await subject.restore(again), { kind: "restored" });
      await subject.goOn();
      assert.equal(await subject.remembers(), "7");
      await subject.driver.end(subject.vm, { graceMs: 0 });
      assert.deepEqual(subject.processes(), []);
    },
  },
  {
    name: "files written before a save are on the disk that the restored guest has",
    run: async (subject) => {
      await subject.runWith(1);
      await subject.call("/files/write", { path: "/workspace/note", content: "kept" });
      await subject.pause();
      const snapshot = await subject.save();
      await subject.driver.end(subject.vm, { graceMs: 0 });
      assert.deepEqual(await subject.restore(snapshot), { kind: "restored" });
      await subject.goOn();
      await subject.driver.end(subject.vm, { graceMs: 0 });
      await subject.runWith(2);
      const note = await subject.call("/files/read?path=/workspace/note");
      assert.equal(note["content"], "kept");
    },
  },
];

const ends: DriverCase[] = [
  {
    name: "end leaves no process, and none to end is no error",
    run: async (subject) => {
      await subject.driver.end(subject.vm, { graceMs: 0 });
      await subject.runWith(1);
      const vmm = subject.vmm();
      await subject.driver.end(subject.vm, { graceMs: 0 });
      assert.ok(!isAlive(vmm));
      await subject.driver.end(subject.vm, { graceMs: 0 });
      assert.equal(await subject.status(), "none");
      assert.deepEqual(subject.processes(), []);
    },
  },
  {
    name: "a guest that powers off ends its VMM within the grace, and the cause says so",
    run: async (subject) => {
      await subject.runWith(1);
      await subject.call("/_torpor/shutdown", {});
      assert.ok(await subject.becomesStatus("none"), "the VMM ended by itself");
      assert.equal((await subject.driver.causeOfEnd(subject.vm)).code, "GUEST_POWERED_OFF");
      await subject.driver.end(subject.vm, { graceMs: 5_000 });
    },
  },
  {
    name: "a VMM that is killed is seen to be gone, with a cause, and the VM boots again",
    run: async (subject) => {
      await subject.runWith(1);
      signalProcess(subject.vmm(), "SIGKILL");
      assert.ok(await subject.becomesStatus("none"));
      assert.equal(await subject.driver.isAlive(subject.vm), false);
      const cause = await subject.driver.causeOfEnd(subject.vm);
      assert.ok(["VMM_KILLED", "VMM_ENDED"].includes(cause.code), JSON.stringify(cause));
      assert.ok(cause.message.length > 0);
      await subject.runWith(3);
      assert.equal(await subject.remembers(), "3");
    },
  },
  {
    name: "a VMM that hangs is unknown, is not touched, and is what it was when it goes on",
    run: async (subject) => {
      await subject.runWith(42);
      const vmm = subject.vmm();
      signalProcess(vmm, "SIGSTOP");
      const seen = await subject.driver.inspect(subject.vm);
      assert.ok(seen.kind === "unknown" && seen.reason.length > 0, JSON.stringify(seen));
      assert.ok(isAlive(vmm) && (await subject.driver.isAlive(subject.vm)));
      signalProcess(vmm, "SIGCONT");
      assert.ok(await subject.becomesStatus("running"));
      assert.equal(await subject.remembers(), "42");
    },
  },
  {
    name: "a hung VMM is ended when that is asked for",
    run: async (subject) => {
      await subject.runWith(1);
      const vmm = subject.vmm();
      signalProcess(vmm, "SIGSTOP");
      await subject.driver.end(subject.vm, { graceMs: 0 });
      assert.ok(!isAlive(vmm));
    },
  },
  {
    name: "a VMM whose control socket is gone is unknown, is not touched, and can be ended",
    run: async (subject) => {
      await subject.runWith(1);
      const vmm = subject.vmm();
      await rm(join(await subject.runDir(), subject.target.controlSocket));
      assert.equal(await subject.status(), "unknown");
      assert.ok(isAlive(vmm));
      await subject.driver.end(subject.vm, { graceMs: 0 });
      assert.ok(!isAlive(vmm));
    },
  },
];

const adoption: DriverCase[] = [
  {
    name: "D2: an agent that starts finds a running VM, and does everything with it",
    run: async (subject) => {
      await subject.runWith(42);
      await subject.forget();
      assert.equal(await subject.status(), "running");
      assert.equal(await subject.remembers(), "42");
      await subject.pause();
      await subject.forget();
      assert.equal(await subject.status(), "paused");
      const snapshot = await subject.save();
      await subject.forget();
      await subject.driver.end(subject.vm, { graceMs: 0 });
      await subject.forget();
      assert.deepEqual(await subject.restore(snapshot), { kind: "restored" });
      await subject.forget();
      await subject.goOn();
      assert.equal(await subject.remembers(), "42");
    },
  },
  {
    name: "D2, VP2: a process whose record a crash has swallowed is ended by the next start: never two",
    run: async (subject) => {
      await subject.runWith(1);
      const orphan = subject.vmm();
      await rm(join(subject.vm.dir, "run.json"));
      await subject.forget();
      await subject.runWith(2);
      assert.ok(!isAlive(orphan));
      assert.notEqual(subject.vmm().pid, orphan.pid);
    },
  },
];

/** Damages a snapshot in one way, tries to restore it, and mends it. */
const damaged = (how: string, harm: (file: string) => Promise<void>): DriverCase => ({
  name: `ME2: a snapshot whose memory is ${how} is refused, no VMM is left, and mended it restores`,
  run: async (subject) => {
    await subject.runWith(42);
    await subject.pause();
    const snapshot = await subject.save();
    await subject.driver.end(subject.vm, { graceMs: 0 });
    const sizes = Object.entries(snapshot.saved.files).toSorted(
      ([, a], [, b]) => b.sizeBytes - a.sizeBytes,
    );
    const memory = join(snapshot.dir, sizes[0]?.[0] ?? "");
    await copyFile(memory, `${memory}.whole`);
    await harm(memory);
    const refused = await subject.restore(snapshot);
    assert.equal(refused.kind, "refused", "it was restored");
    assert.ok(refused.kind === "refused" && refused.reason.length > 0);
    assert.deepEqual(subject.processes(), []);
    await rename(`${memory}.whole`, memory);
    assert.deepEqual(await subject.restore(snapshot), { kind: "restored" });
    await subject.goOn();
    assert.equal(await subject.remembers(), "42");
  },
});

const failures: DriverCase[] = [
  damaged("missing", (file) => rm(file)),
  damaged("cut in half", async (file) => truncate(file, Math.floor((await stat(file)).size / 2))),
  damaged("empty", (file) => truncate(file, 0)),
  damaged("wrong in one bit", async (file) => {
    const handle = await open(file, "r+");
    const at = Math.floor((await handle.stat()).size / 2);
    const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, at);
    await handle.write(Buffer.from([(buffer[0] ?? 0) ^ 0x10]), 0, 1, at);
    await handle.close();
  }),
  {
    name: "a snapshot of another VMM, version or CPU is refused with both named",
    run: async (subject) => {
      const own = await subject.driver.fingerprint();
      assert.equal(await subject.driver.refusal(own), undefined);
      assert.ok((await subject.driver.restorable()).includes(own));
      for (const foreign of [
        "nothing-known/1",
        `${own}x`,
        own.replace(/\d+/, (digits) => `${digits}9`),
      ])
        assert.ok(((await subject.driver.refusal(foreign)) ?? "").length > 0, foreign);
    },
  },
  {
    name: "a boot without its disk or its base image fails, says why, and leaves no process",
    run: async (subject) => {
      for (const name of ["disk.raw", "rootfs.ext4"]) {
        await rename(join(subject.vm.dir, name), join(subject.vm.dir, `${name}.away`));
        await assert.rejects(
          subject.driver.boot(subject.vm, AbortSignal.timeout(subject.target.bootLimitMs)),
          /\w/,
        );
        assert.deepEqual(subject.processes(), []);
        await rename(join(subject.vm.dir, `${name}.away`), join(subject.vm.dir, name));
      }
      await subject.runWith(1);
    },
  },
  {
    name: "a restore without its disk does not run, leaves no process, and works once the disk is back",
    run: async (subject) => {
      await subject.runWith(42);
      await subject.pause();
      const snapshot = await subject.save();
      await subject.driver.end(subject.vm, { graceMs: 0 });
      const disk = join(subject.vm.dir, "disk.raw");
      await rename(disk, `${disk}.away`);
      const outcome = await subject.restore(snapshot).then(
        ({ kind }) => kind,
        () => "failed",
      );
      assert.notEqual(outcome, "restored");
      assert.deepEqual(subject.processes(), []);
      await rename(`${disk}.away`, disk);
      assert.deepEqual(await subject.restore(snapshot), { kind: "restored" });
      await subject.goOn();
      assert.equal(await subject.remembers(), "42");
    },
  },
  {
    name: "ME3: memory that cannot be written leaves nothing half-made, and the VM goes on",
    run: async (subject) => {
      await subject.runWith(42);
      await subject.pause();
      const missing = join(subject.vm.dir, "no-such-directory");
      await assert.rejects(subject.driver.saveMemory(subject.vm, missing, NEVER));
      assert.equal(await subject.status(), "paused");
      const { saved } = await subject.save();
      assert.ok(Object.keys(saved.files).length > 0);
      await subject.goOn();
      assert.equal(await subject.remembers(), "42");
    },
  },
  {
    name: "VP4: a restore that is called off leaves no process, and the snapshot whole",
    run: async (subject) => {
      await subject.runWith(42);
      await subject.pause();
      const snapshot = await subject.save();
      await subject.driver.end(subject.vm, { graceMs: 0 });
      await assert.rejects(subject.restore(snapshot, AbortSignal.abort(new Error("called off"))));
      assert.deepEqual(subject.processes(), []);
      assert.deepEqual(await subject.restore(snapshot), { kind: "restored" });
    },
  },
  {
    name: "a save that is called off leaves the VM as it was",
    run: async (subject) => {
      await subject.runWith(42);
      await subject.pause();
      const dir = join(subject.vm.dir, "snap.1");
      await mkdir(dir);
      await assert.rejects(
        subject.driver.saveMemory(subject.vm, dir, AbortSignal.abort(new Error("called off"))),
      );
      assert.equal(await subject.status(), "paused");
      await subject.goOn();
      assert.equal(await subject.remembers(), "42");
    },
  },
  {
    name: "verbs that need a VMM say that there is none",
    run: async (subject) => {
      for (const verb of [
        () => subject.driver.pauseVcpus(subject.vm),
        () => subject.driver.resumeVcpus(subject.vm),
        () => subject.driver.saveMemory(subject.vm, subject.vm.dir, NEVER),
      ])
        await assert.rejects(verb, new RegExp(subject.vm.sandboxId));
    },
  },
  {
    name: "what a VMM logs is cut, and a log that became something else is not followed",
    run: async (subject) => {
      await subject.runWith(1);
      const log = join(await subject.runDir(), "stderr.log");
      await writeFile(log, Buffer.alloc(3 * 1024 ** 2, "x"));
      await subject.driver.trimLogs(subject.vm);
      assert.ok((await stat(log)).size < 1024 ** 2);
      const other = join(subject.vm.dir, "not-a-log");
      await writeFile(other, Buffer.alloc(3 * 1024 ** 2, "x"));
      await rm(log);
      await symlink(other, log);
      await assert.rejects(subject.driver.trimLogs(subject.vm), { code: "ELOOP" });
      assert.equal((await stat(other)).size, 3 * 1024 ** 2);
      assert.equal(await subject.status(), "running");
    },
  },
];

export const DRIVER_CASES: DriverCase[] = [...lifecycle, ...ends, ...adoption, ...failures];
