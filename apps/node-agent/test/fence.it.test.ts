/**
 * The fence as a separate process, beside an agent that is killed, is stopped or returns. Real
 * processes stand for VMMs, and the kernel reports whether they are frozen: by the cgroup freezer
 * if this machine has it, and by SIGSTOP.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { SandboxId } from "@torpor/contracts";
import { identify, type ProcessIdentity, stateOf } from "@torpor/service/processes";
import { recordLeftover, tempDir, until } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { bootMs } from "../src/fence/clock.ts";
import { FenceFiles, type Frozen } from "../src/fence/files.ts";
import { stands } from "../src/fence/freeze.ts";
import { Cgroups, findCgroupMount, findVmCgroup } from "../src/host/isolation/cgroups.ts";
import { cgroupName } from "../src/host/isolation/naming.ts";

const script = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const LEASE_MS = 1_000;
/** Long enough for several rounds of the fence. */
const SOME_LOOKS_MS = 1_200;

let dir: Awaited<ReturnType<typeof tempDir>>;
let files: FenceFiles;
const children: ChildProcess[] = [];
const ended: (() => Promise<void>)[] = [];

beforeAll(async () => {
  dir = await tempDir();
  files = new FenceFiles(dir.path);
  await startFence();
});
afterEach(async () => {
  for (const end of ended.splice(0).toReversed()) await end();
});
afterAll(async () => {
  for (const child of children) await kill(child);
  await dir[Symbol.asyncDispose]();
});

function start(args: string[], env: Record<string, string> = {}): ChildProcess {
  const child = spawn(process.execPath, args, {
    stdio: ["ignore", "ignore", "inherit"],
    env: { ...process.env, ...env },
  });
  children.push(child);
  return child;
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  child.kill("SIGKILL");
  await exited;
}

async function startFence(): Promise<ChildProcess> {
  const fence = start([script("../src/fence/main.ts")], { DATA_DIR: dir.path });
  await until("the fence lives", () => files.isFenceAlive());
  return fence;
}

/** Starts a process that renews the lease until it is killed or stopped. */
async function startAgent(): Promise<ChildProcess> {
  const agent = start([script("support/lease-keeper.ts"), dir.path, String(LEASE_MS)]);
  ended.push(() => kill(agent));
  await until(
    "there is a lease",
    async () => ((await files.readLease())?.untilBootMs ?? 0) > bootMs(),
  );
  return agent;
}

let vmms = 0;
/** A process that stands for a VMM, recorded as the agent records one. */
async function startVmm(
  isFenced: boolean,
  cgroups?: Cgroups,
): Promise<ProcessIdentity & { sandboxId: SandboxId }> {
  vmms += 1;
  const sandboxId = `17954907${String(vmms).padStart(2, "0")}abcdefgh` as SandboxId;
  const cgroup = await cgroups?.make({ name: sandboxId, memoryMib: 64, vcpu: 1 });
  const busy = "setInterval(() => {}, 10)";
  const child =
    cgroup === undefined
      ? start(["-e", busy])
      : spawn(
          "sh",
          [
            "-euc",
            'echo 0 > "$1/cgroup.procs"; shift; exec "$@"',
            "sh",
            cgroup,
            process.execPath,
            "-e",
            busy,
          ],
          {
            stdio: "ignore",
          },
        );
  children.push(child);
  ended.push(async () => {
    await kill(child);
    await cgroups?.remove(sandboxId);
  });
  const identity = identify(child.pid ?? 0);
  if (identity === undefined) throw new Error("the process is not there");
  if (cgroup !== undefined) await until("it is in its cgroup", () => findVmCgroup(identity.pid));
  const vmDir = join(dir.path, "vm", sandboxId);
  await mkdir(vmDir, { recursive: true });
  await writeFile(
    join(vmDir, "run.json"),
    JSON.stringify({ ...identity, epoch: 1, ...(isFenced ? { isFenced } : {}) }),
  );
  return { ...identity, sandboxId };
}

const frozenOf = (vmm: { sandboxId: SandboxId }): Promise<Frozen> =>
  until(`${vmm.sandboxId} is frozen`, () => files.readFrozen(vmm.sandboxId));
const someLooks = () => new Promise((resolve) => setTimeout(resolve, SOME_LOOKS_MS));

async function freezerHere(): Promise<Cgroups | undefined> {
  const mount = await findCgroupMount();
  if (mount === undefined || process.getuid?.() !== 0) return undefined;
  const tag = randomBytes(3).toString("hex");
  recordLeftover({ kind: "cgroup", name: join(mount, cgroupName(tag)) });
  const cgroups = new Cgroups(mount, tag);
  return await cgroups.tryOne().then(
    () => cgroups,
    () => undefined,
  );
}
const freezer = await freezerHere();
if (freezer === undefined)
  process.stderr.write(
    "fence.it.test.ts: no cgroup of version 2 can be made here; only SIGSTOP is tested\n",
  );
afterAll(async () => {
  await freezer?.close();
});

const ways = [
  { by: "signal", cgroups: undefined } as const,
  ...(freezer === undefined ? [] : [{ by: "cgroup", cgroups: freezer } as const]),
];

describe.each(ways)("by $by", ({ by, cgroups }) => {
  test.each(["SIGKILL", "SIGSTOP"] as const)(
    "the agent gets %s: what may be restored elsewhere stands at the end of its lease, the rest goes on",
    async (signal) => {
      const agent = await startAgent();
      const [guarded, waits] = [await startVmm(true, cgroups), await startVmm(false, cgroups)];
      await someLooks();
      expect(await stands(guarded, by), "while the lease is renewed").toBe(false);
      agent.kill(signal);
      const frozen = await frozenOf(guarded);
      const lease = await files.readLease();
      expect(frozen).toMatchObject({ by, epoch: 1, pid: guarded.pid });
      expect(frozen.frozenAtBootMs).toBeGreaterThanOrEqual(lease?.untilBootMs ?? 0);
      expect(await stands(guarded, by)).toBe(true);
      expect(await stands(waits, by)).toBe(false);
      expect(await files.readFrozen(waits.sandboxId)).toBeUndefined();
    },
  );

  test("FE1, FE2: an agent that comes back gets its lease, not its VM: that stands until it is permitted, and is frozen again when somebody else lets it go on", async () => {
    const agent = await startAgent();
    const vmm = await startVmm(true, cgroups);
    agent.kill("SIGSTOP");
    const frozen = await frozenOf(vmm);
    const before = await files.readLease();
    agent.kill("SIGCONT");
    const lease = await until("a new lease", async () => {
      const found = await files.readLease();
      return found !== undefined && found.sinceBootMs !== before?.sinceBootMs ? found : undefined;
    });
    await someLooks();
    expect(await stands(vmm, by)).toBe(true);

    const permit = { ...frozen, sinceBootMs: lease.sinceBootMs };
    await files.writePermit({ ...permit, sinceBootMs: before?.sinceBootMs ?? 0 });
    await someLooks();
    expect(await stands(vmm, by), "permitted under the lease before").toBe(true);
    if (by === "signal") {
      process.kill(vmm.pid, "SIGCONT");
      await until("it is frozen again", () => stateOf(vmm) === "T");
    }
    // An agent that gets no CPU for a second has a new lease afterwards, and has to request again.
    await until("it goes on", async () => {
      const { sinceBootMs } = (await files.readLease()) ?? permit;
      await files.writePermit({ ...permit, sinceBootMs });
      return !(await stands(vmm, by));
    });
    await until(
      "nothing is said to be frozen",
      async () => (await files.readFrozen(vmm.sandboxId)) === undefined,
    );
    await someLooks();
    expect(await stands(vmm, by)).toBe(false);
  });

  test("a fence that was killed is known to be dead, and the next one freezes what it finds", async () => {
    const agent = await startAgent();
    const vmm = await startVmm(true, cgroups);
    const fence = children[0];
    if (fence === undefined) throw new Error("there is no fence");
    await kill(fence);
    await until("it is known", async () => !(await files.isFenceAlive()));
    await kill(agent);
    await until(
      "the lease has ended",
      async () => ((await files.readLease())?.untilBootMs ?? 0) <= bootMs(),
    );
    expect(await stands(vmm, by)).toBe(false);
    children[0] = await startFence();
    await frozenOf(vmm);
    expect(await stands(vmm, by)).toBe(true);
  });
});

test("a stopped fence is known to be dead too", async () => {
  const fence = children[0];
  fence?.kill("SIGSTOP");
  await until("it is known", async () => !(await files.isFenceAlive()));
  fence?.kill("SIGCONT");
  await until("it lives again", () => files.isFenceAlive());
});

test("what is gone is forgotten", async () => {
  const vmm = await startVmm(true);
  await frozenOf(vmm);
  process.kill(vmm.pid, "SIGKILL");
  await until("it is forgotten", async () => (await files.readFrozen(vmm.sandboxId)) === undefined);
});
