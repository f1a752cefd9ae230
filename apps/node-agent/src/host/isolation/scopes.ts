/**
 * Cgroups made by systemd, where it runs: a transient scope per run of a VMM, so that the VMM is
 * never in the agent's cgroup and outlives the agent's unit.
 */
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { type Limited, MAX_TASKS } from "./cgroups.ts";
import { command } from "./commands.ts";
import { scopeName } from "./naming.ts";

const SLICE = "torpor-vms.slice";

export const runsSystemd = () => existsSync("/run/systemd/system");

/** Makes one scope. Throws the reason if the agent cannot have scopes. */
export async function tryScope(): Promise<void> {
  await command([
    "systemd-run",
    "--scope",
    "--quiet",
    "--collect",
    "--no-ask-password",
    `--slice=${SLICE}`,
    "--",
    "true",
  ]);
}

/**
 * systemd-run enters the scope itself, then becomes the command by exec: same pid. The scope is
 * gone with its last process.
 */
export function inScope(tag: string, vm: Limited, argv: string[]): [string, ...string[]] {
  const properties = [
    `MemoryMax=${vm.memoryMib}M`,
    `CPUQuota=${vm.vcpu * 100}%`,
    `TasksMax=${MAX_TASKS}`,
    "Delegate=yes",
  ];
  const unit = scopeName(tag, vm.name, randomBytes(4).toString("hex"));
  const description = `--description=VM of Torpor ${vm.name}`;
  const options = [
    "--scope",
    "--quiet",
    "--collect",
    "--no-ask-password",
    description,
    `--unit=${unit}`,
    `--slice=${SLICE}`,
  ];
  return [
    "systemd-run",
    ...options,
    ...properties.map((property) => `--property=${property}`),
    "--",
    ...argv,
  ];
}
