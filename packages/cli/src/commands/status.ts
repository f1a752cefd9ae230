/** `torpor status [--json]`: every component and every virtual machine of the local fleet. */
import { parseArgs } from "node:util";
import { Fleet, type Health } from "@torpor/fleet";
import { fleetDir } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { table } from "../table.ts";

interface ComponentStatus {
  name: string;
  role: string;
  pid: number | null;
  address: string;
  health: "well" | "unwell" | "down";
  reason?: string;
}

interface VmStatus {
  sandbox: string;
  host: string;
  pid: number | null;
  state: string;
}

export async function status({ root, args, write }: CommandContext): Promise<number> {
  const { values } = parseArgs({ args, options: { json: { type: "boolean", default: false } } });
  const fleet = await Fleet.find(fleetDir(root));
  const seen = fleet === undefined ? [] : await fleet.health();
  const components = seen.map(({ component, health }): ComponentStatus => {
    const { name, role, address } = component;
    const pid = health.kind === "down" ? null : (component.process?.pid ?? null);
    return { name, role, pid, address, health: health.kind, ...(health.kind === "unwell" ? { reason: health.reason } : {}) };
  });
  const vms = seen.flatMap(({ health }) => vmsOf(health));
  if (values.json) write(JSON.stringify({ up: fleet !== undefined, url: fleet?.state.url ?? null, components, vms }, undefined, 2));
  else if (fleet === undefined) write("The fleet is down. ./torpor up starts it.");
  else {
    write(
      table(
        ["COMPONENT", "ROLE", "PID", "ADDRESS", "HEALTH"],
        components.map((one) => [one.name, one.role, String(one.pid ?? "-"), one.address, one.health]),
      ),
    );
    write("");
    write(
      vms.length === 0
        ? "No virtual machines."
        : table(
            ["SANDBOX", "HOST", "PID", "STATE"],
            vms.map((vm) => [vm.sandbox, vm.host, String(vm.pid ?? "-"), vm.state]),
          ),
    );
  }
  return fleet !== undefined && components.every(({ health }) => health === "well") ? 0 : 1;
}

/** What a node-agent says of its VMs, in its health report. */
function vmsOf(health: Health): VmStatus[] {
  if (health.kind !== "well" || !Array.isArray(health.facts["vms"])) return [];
  const vms = health.facts["vms"] as { sandboxId: string; hostId: string; state: string; pid?: number }[];
  return vms.map(({ sandboxId, hostId, pid, state }) => ({ sandbox: sandboxId, host: hostId, pid: pid ?? null, state }));
}
