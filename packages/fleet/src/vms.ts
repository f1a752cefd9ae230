/** The VMM processes of a fleet's hosts, read from their run records: what `down` has to end although it outlives its agent by design. */
import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { localProgram, prepareLocalPrograms } from "@torpor/programs";
import { isAlive, type ProcessIdentity, signalProcess, waitUntilGone } from "@torpor/service";
import type { Component } from "./state.ts";

const run = promisify(execFile);

export interface VmProcess extends ProcessIdentity {
  hostId: string;
  sandboxId: string;
}

const TERMINATE_LIMIT_MS = 3_000;
const KILL_LIMIT_MS = 10_000;
const COLLECT_LIMIT_MS = 60_000;

/** Those that are alive right now. */
export async function listVmProcesses(fleetDir: string): Promise<VmProcess[]> {
  const found: VmProcess[] = [];
  const hosts = join(fleetDir, "hosts");
  for (const hostId of await namesIn(hosts)) {
    for (const sandboxId of await namesIn(join(hosts, hostId, "vm"))) {
      const text = await readFile(join(hosts, hostId, "vm", sandboxId, "run.json"), "utf8").catch(() => undefined);
      if (text === undefined) continue;
      const identity = JSON.parse(text) as ProcessIdentity;
      if (isAlive(identity)) found.push({ ...identity, hostId, sandboxId });
    }
  }
  return found;
}

export async function endVmProcesses(fleetDir: string): Promise<number> {
  const processes = await listVmProcesses(fleetDir);
  await Promise.all(
    processes.map(async (vm) => {
      signalProcess(vm, "SIGTERM");
      if (await waitUntilGone(vm, TERMINATE_LIMIT_MS)) return;
      signalProcess(vm, "SIGKILL");
      if (!(await waitUntilGone(vm, KILL_LIMIT_MS)))
        throw new Error(`VMM process ${vm.pid} of ${vm.sandboxId} cannot be ended: it may hang in the kernel`);
    }),
  );
  return processes.length;
}

type Started = Pick<Component, "name" | "command" | "env">;

/** Removes what a host's VMs had of this machine beside their files: namespaces, cgroups, firewall rules. Its agent and its VMs have ended. */
export async function collectLeftovers(agent: Started): Promise<void> {
  await prepareLocalPrograms();
  try {
    await run(agent.command, [localProgram("node-agent"), "collect"], { env: agent.env, timeout: COLLECT_LIMIT_MS });
  } catch (cause) {
    throw new Error(`${agent.name} has ended, but not everything that its VMs used on this machine could be removed`, { cause });
  }
}

async function namesIn(dir: string): Promise<string[]> {
  return await readdir(dir).catch(() => []);
}
