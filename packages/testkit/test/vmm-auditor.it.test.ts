/** The auditor itself: it has to see what it is there for, and nothing else. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { tempDir, until, VmmAuditor } from "../src/index.ts";

async function vmmIn(fleetDir: string, hostId: string, sandboxId: string): Promise<ChildProcess> {
  const cwd = join(fleetDir, "hosts", hostId, "vm", sandboxId);
  await mkdir(cwd, { recursive: true });
  const child = spawn("sleep", ["60"], { cwd, stdio: "ignore" });
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
