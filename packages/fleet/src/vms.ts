/**
 * The VMM processes of a fleet's hosts, from their run records: `down` must end them, although they
 * outlive their agent by design.
 */
import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { localProgram, prepareLocalPrograms } from "@torpor/programs";
import { isAlive, type ProcessIdentity, signalProcess, waitUntilGone } from "@torpor/service";
import type { Component } from "./state.ts";

export interface VmProcess extends ProcessIdentity {
  hostId: string;
  sandboxId: string;
}

const TERMINATE_LIMIT_MS = 3_000;
const KILL_LIMIT_MS = 10_000;
const COLLECT_LIMIT_MS = 60_000;
/** Longer than the host's program waits for its guests. */
const SHUT_DOWN_LIMIT_MS = 120_000;

/** Returns the processes that are alive. */
export async function listVmProcesses(fleetDir: string): Promise<VmProcess[]> {
  const found: VmProcess[] = [];
  const hosts = join(fleetDir, "hosts");
  for (const hostId of await namesIn(hosts)) {
    // VMs of sandboxes, and warm VMs.
    for (const kind of ["vm", "warm"]) {
      for (const sandboxId of await namesIn(join(hosts, hostId, kind))) {
        const text = await readFile(join(hosts, hostId, kind, sandboxId, "run.json"), "utf8").catch(
          () => undefined,
        );
        if (text === undefined) continue;
        const identity = JSON.parse(text) as ProcessIdentity;
        if (isAlive(identity)) found.push({ ...identity, hostId, sandboxId });
      }
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
        throw new Error(
          `VMM process ${vm.pid} of ${vm.sandboxId} cannot be ended: it may hang in the kernel`,
        );
    }),
  );
  return processes.length;
}

/** `args`: set for an agent that does not run this checkout's program. */
type Started = Pick<Component, "name" | "command" | "env"> & Partial<Pick<Component, "args">>;

const run = promisify(execFile);

async function runPart(
  agent: Started,
  part: "shut-down" | "collect",
  limitMs: number,
): Promise<string> {
  await prepareLocalPrograms();
  const args = [...(agent.args ?? [localProgram("node-agent")]), part];
  return (await run(agent.command, args, { env: agent.env, timeout: limitMs })).stdout;
}

/**
 * Shuts down the guests of a host whose agent has ended, so that their disks are consistent, and
 * reports failures. Never throws: the VMs are ended in any case.
 */
export async function shutDownGuests(agent: Started, say: (line: string) => void): Promise<void> {
  try {
    const said = await runPart(agent, "shut-down", SHUT_DOWN_LIMIT_MS);
    for (const line of said.split("\n")) if (line !== "") say(`${agent.name}: ${line}`);
  } catch (error) {
    say(`${agent.name}: its guests were not shut down: ${(error as Error).message}`);
  }
}

/**
 * Removes what a host's VMs used on this machine besides files: namespaces, cgroups, firewall
 * rules. The host's agent and VMs must have ended.
 */
export async function collectLeftovers(agent: Started): Promise<void> {
  try {
    await runPart(agent, "collect", COLLECT_LIMIT_MS);
  } catch (cause) {
    throw new Error(
      `${agent.name} has ended, but not everything that its VMs used on this machine could be removed`,
      { cause },
    );
  }
}

async function namesIn(dir: string): Promise<string[]> {
  return await readdir(dir).catch(() => []);
}
