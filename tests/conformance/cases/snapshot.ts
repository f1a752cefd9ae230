/**
 * vm.snapshot: where it writes, what it leaves when it fails, and that it does not change the VM.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type Case,
  expectError,
  expectStatus,
  RAM_BYTES,
  SNAPSHOT,
  type Stage,
  vmCase,
} from "../support/stage.ts";
import { RawConnection, type VmmProcess } from "../support/vmm.ts";

const FILES = ["config.json", "memory-ranges", "state.json"];
/** All of the RAM is data, so that writing the RAM takes a while. */
const ALL_TOUCHED = { memory: { size: RAM_BYTES, shared: true, prefault: true } };
const SLOW = { kind: "slow", call: "vm.snapshot", ms: 1_000 } as const;
const ATTEMPTS = 5;
const FILE_LIMIT_MS = 30_000;

function expectComplete(dir: string): void {
  assert.deepEqual(readdirSync(dir).toSorted(), FILES);
  assert.equal(statSync(join(dir, "memory-ranges")).size, RAM_BYTES);
  for (const name of ["config.json", "state.json"])
    JSON.parse(readFileSync(join(dir, name), "utf8"));
}

/**
 * Begins a snapshot, and waits until its memory file has full size. Undefined when the snapshot
 * ended before that was seen.
 */
async function inTheMiddle(
  vmm: VmmProcess,
): Promise<{ answered: Promise<"answered" | "closed"> } | undefined> {
  let isOver = false;
  const answered = vmm.put("vm.snapshot", SNAPSHOT).then(
    () => "answered" as const,
    () => "closed" as const,
  );
  void answered.then(() => (isOver = true));
  const memory = join(vmm.dir, "snap/memory-ranges");
  const deadline = performance.now() + FILE_LIMIT_MS;
  while (!existsSync(memory) || statSync(memory).size < RAM_BYTES) {
    assert.ok(performance.now() < deadline, "no memory-ranges of full size appears");
    await sleep(1);
  }
  return isOver ? undefined : { answered };
}

export const snapshotCases: Case[] = [
  vmCase(
    "11.3",
    "three files in a relative directory, memory-ranges exactly as big as the RAM and sparse; the VM stays paused",
    async (stage) => {
      const vmm = await stage.paused();
      expectStatus(await vmm.put("vm.snapshot", SNAPSHOT), 204);
      const dir = join(vmm.dir, "snap");
      expectComplete(dir);
      const { blocks } = statSync(join(dir, "memory-ranges"));
      assert.ok(blocks * 512 < RAM_BYTES, "memory-ranges has no holes");
      assert.equal(statSync(join(dir, "memory-ranges")).mode & 0o077, 0);
      assert.equal(await vmm.state(), "Paused");
      expectStatus(await vmm.put("vm.resume"), 204);
      assert.equal(await vmm.state(), "Running");
    },
  ),
  vmCase("3.5", "config.json has the relative paths as they were given", async (stage) => {
    const vmm = await stage.paused();
    expectStatus(await vmm.put("vm.snapshot", SNAPSHOT), 204);
    const config = JSON.parse(readFileSync(join(vmm.dir, "snap/config.json"), "utf8")) as {
      disks: { path: string }[];
      vsock: { socket: string };
      payload: { kernel: string };
    };
    assert.deepEqual(
      [config.disks[0]?.path, config.vsock.socket, config.payload.kernel],
      ["disk.raw", "vsock.sock", "kernel"],
    );
  }),
  vmCase(
    "11.3",
    "of a running VM it is a 500, nothing is written and the VM runs on",
    async (stage) => {
      const vmm = await stage.paused();
      expectStatus(await vmm.put("vm.resume"), 204);
      expectError(
        await vmm.put("vm.snapshot", SNAPSHOT),
        500,
        "Trying to snapshot while VM is running",
      );
      assert.deepEqual(readdirSync(join(vmm.dir, "snap")), []);
      assert.equal(await vmm.state(), "Running");
    },
  ),
  vmCase(
    "11.3",
    "into a directory that is missing, or by an URL that is none, it is a 500",
    async (stage) => {
      const vmm = await stage.paused();
      expectError(
        await vmm.put("vm.snapshot", { destination_url: "file://missing" }),
        500,
        "Destination is not a directory",
      );
      expectError(
        await vmm.put("vm.snapshot", { destination_url: "snap" }),
        500,
        "Could not extract path from URL",
      );
      assert.equal(await vmm.state(), "Paused");
    },
  ),
  vmCase(
    "11.3",
    "into a directory that is not empty it is a 500, and what is there stays as it is",
    async (stage) => {
      const vmm = await stage.paused();
      const config = join(vmm.dir, "snap/config.json");
      writeFileSync(config, "mine");
      expectError(
        await vmm.put("vm.snapshot", SNAPSHOT),
        500,
        "Error creating VM config snapshot file",
        "File exists",
      );
      assert.equal(readFileSync(config, "utf8"), "mine");
      rmSync(config);
      writeFileSync(join(vmm.dir, "snap/memory-ranges"), "mine");
      expectError(await vmm.put("vm.snapshot", SNAPSHOT), 500, "File exists");
      assert.equal(readFileSync(join(vmm.dir, "snap/memory-ranges"), "utf8"), "mine");
      assert.equal(await vmm.state(), "Paused");
    },
  ),
  vmCase(
    "11.3",
    "on a full file system it is a 500; memory-ranges has its full size all the same; the VM can be resumed",
    async (stage) => {
      const vmm = await stage.paused("a", ALL_TOUCHED);
      const url = await fullFileSystem(stage, vmm);
      if ("skipped" in url) return url.skipped;
      const answer = await vmm.put("vm.snapshot", { destination_url: url.url });
      expectError(answer, 500, "Error writing sparse memory snapshot region", "No space left");
      assert.equal(statSync(join(url.dir, "memory-ranges")).size, RAM_BYTES);
      assert.equal(await vmm.state(), "Paused");
      expectStatus(await vmm.put("vm.resume"), 204);
      return undefined;
    },
  ),
  vmCase(
    "11.3",
    "SIGKILL in the middle: no answer, and three files of which memory-ranges has its full size",
    async (stage) => {
      for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
        const vmm = await stage.paused(`a${attempt}`, ALL_TOUCHED);
        await stage.target.setFaults?.(vmm.dir, [SLOW]);
        const snapshot = await inTheMiddle(vmm);
        vmm.signal("SIGKILL");
        if (snapshot === undefined || (await snapshot.answered) === "answered") continue;
        await vmm.exit();
        assert.deepEqual(readdirSync(join(vmm.dir, "snap")).toSorted(), FILES);
        assert.equal(statSync(join(vmm.dir, "snap/memory-ranges")).size, RAM_BYTES);
        return undefined;
      }
      return `the snapshot was faster than SIGKILL, ${ATTEMPTS} times`;
    },
  ),
  vmCase("1.1", "calls wait for a snapshot: vmm.ping is answered after it", async (stage) => {
    const vmm = await stage.paused("a", ALL_TOUCHED);
    await stage.target.setFaults?.(vmm.dir, [SLOW]);
    const snapshot = await inTheMiddle(vmm);
    if (snapshot === undefined) return "the snapshot was over before a ping could be sent";
    const order: string[] = [];
    await Promise.all([
      snapshot.answered.then(() => order.push("snapshot")),
      vmm.get("vmm.ping").then(() => order.push("ping")),
    ]);
    assert.deepEqual(order, ["snapshot", "ping"]);
    return undefined;
  }),
  vmCase("1.1", "a client that hangs up does not cancel what it asked for", async (stage) => {
    const vmm = await stage.paused("a", ALL_TOUCHED);
    await stage.target.setFaults?.(vmm.dir, [SLOW]);
    const connection = await RawConnection.open(vmm.socketPath);
    const body = JSON.stringify(SNAPSHOT);
    connection.send(
      `PUT /api/v1/vm.snapshot HTTP/1.1\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
    const deadline = performance.now() + FILE_LIMIT_MS;
    while (!existsSync(join(vmm.dir, "snap/config.json")) && performance.now() < deadline)
      await sleep(1);
    connection.socket.destroy();
    assert.equal(await vmm.state(), "Paused");
    expectComplete(join(vmm.dir, "snap"));
  }),
];

/**
 * The real VMM gets a file system that is too small for the memory of a VM. The toy's memory fits
 * anywhere, so the fake pretends that the file system is full.
 */
async function fullFileSystem(
  stage: Stage,
  vmm: VmmProcess,
): Promise<{ url: string; dir: string } | { skipped: string }> {
  if (stage.target.setFaults !== undefined) {
    await stage.target.setFaults(vmm.dir, [{ kind: "no-space" }]);
    return { url: SNAPSHOT.destination_url, dir: join(vmm.dir, "snap") };
  }
  const skipped = stage.mountSmall("a/small", 4 * 1024 * 1024);
  return skipped === undefined ? { url: "file://small", dir: join(vmm.dir, "small") } : { skipped };
}
