/** The auditor itself: it must find overlaps, and nothing else. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { tempDir, until, VmmAuditor } from "../src/index.ts";

async function vmmIn(
  fleetDir: string,
  hostId: string,
  sandboxId: string,
  command = ["sleep", "60"],
): Promise<ChildProcess> {
  const cwd = join(fleetDir, "hosts", hostId, "vm", sandboxId);
  await mkdir(cwd, { recursive: true });
  const [file = "", ...args] = command;
  const child = spawn(file, args, { cwd, stdio: ["ignore", "pipe", "ignore"] });
  await once(child, "spawn");
  return child;
}

test("two VMMs of one sandbox are an overlap while both run; one that is stopped, or is another sandbox's, is none", async () => {
  await using dir = await tempDir();
  const vmms = [await vmmIn(dir.path, "host-1", "a"), await vmmIn(dir.path, "host-2", "b")];
  try {
    await using auditor = VmmAuditor.over(dir.path);
    const someLooks = async () => {
      const before = auditor.looks;
      await until("some looks", () => auditor.looks > before + 3);
    };
    vmms[0]?.kill("SIGSTOP");
    vmms.push(await vmmIn(dir.path, "host-2", "a"));
    await someLooks();
    expect(auditor.overlaps).toEqual([]);
    vmms[0]?.kill("SIGCONT");
    const seen = await until("the overlap", () => auditor.overlaps[0]);
    expect(seen.sandboxId).toBe("a");
    expect(new Set(seen.vmms.map(({ pid }) => pid))).toEqual(new Set([vmms[0]?.pid, vmms[2]?.pid]));
  } finally {
    for (const vmm of vmms) vmm.kill("SIGKILL");
  }
});

/** Enough memory that the end of the process takes several checks. */
const HELD_MIB = 1024;
const HOLDS_MEMORY = [
  process.execPath,
  "-e",
  `const held = Buffer.alloc(${HELD_MIB} * 2 ** 20, 1); console.log("holds"); setTimeout(() => held, 60_000)`,
];

test("one that stands stopped and is killed does not run again while the kernel ends it", async () => {
  await using dir = await tempDir();
  const old = await vmmIn(dir.path, "host-1", "a", HOLDS_MEMORY);
  const vmms = [old];
  try {
    await once(old.stdout ?? old, "data");
    old.kill("SIGSTOP");
    vmms.push(await vmmIn(dir.path, "host-2", "a"));
    await using auditor = VmmAuditor.over(dir.path);
    await until("a look", () => auditor.looks > 0);
    old.kill("SIGKILL");
    await once(old, "exit");
    expect(auditor.overlaps).toEqual([]);
  } finally {
    for (const vmm of vmms) vmm.kill("SIGKILL");
  }
});
