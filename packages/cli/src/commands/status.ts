/** `torpor status [--json]`: every component and every virtual machine of the local fleet. */
import { parseArgs } from "node:util";
import { Fleet, type Health } from "@torpor/fleet";
import type { WorkProblem } from "@torpor/service";
import { fleetDir } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { table } from "../table.ts";

export interface ComponentStatus {
  name: string;
  role: string;
  pid: number | null;
  address: string;
  health: "healthy" | "unhealthy" | "down";
  reason?: string;
  /** Stopped work, as the component itself reports. */
  problems?: WorkProblem[];
}

/** As the JSON output was released. */
const RELEASED_HEALTH = { healthy: "well", unhealthy: "unwell", down: "down" } as const;

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
    const problems = problemsOf(health);
    const more =
      health.kind === "unhealthy"
        ? { reason: health.reason }
        : problems.length > 0
          ? { problems }
          : {};
    return { name, role, pid, address, health: health.kind, ...more };
  });
  const vms = seen.flatMap(({ health }) => vmsOf(health));
  if (values.json)
    write(
      JSON.stringify(
        {
          up: fleet !== undefined,
          url: fleet?.state.url ?? null,
          components: components.map((one) => ({ ...one, health: RELEASED_HEALTH[one.health] })),
          vms,
        },
        undefined,
        2,
      ),
    );
  else if (fleet === undefined) write("The fleet is down. ./torpor up starts it.");
  else {
    write(
      table(
        ["COMPONENT", "ROLE", "PID", "ADDRESS", "HEALTH"],
        components.map((one) => [
          one.name,
          one.role,
          String(one.pid ?? "-"),
          one.address,
          one.health,
        ]),
      ),
    );
    write("");
    write(
      vms.length === 0
        ? "No virtual machines seen."
        : table(
            ["SANDBOX", "HOST", "PID", "STATE"],
            vms.map((vm) => [vm.sandbox, vm.host, String(vm.pid ?? "-"), vm.state]),
          ),
    );
    const advice = adviceOn(components);
    if (advice.length > 0) write(["", ...advice].join("\n"));
  }
  return fleet !== undefined &&
    components.every(({ health, problems }) => health === "healthy" && problems === undefined)
    ? 0
    : 1;
}

/** One line per problem, with its remedy. */
export function adviceOn(components: ComponentStatus[]): string[] {
  const unhealthy = components.flatMap(({ name, reason }) =>
    reason === undefined ? [] : [{ name, reason }],
  );
  const down = components.filter(({ health }) => health === "down");
  const silent = components.filter(
    ({ role, health }) => role === "node-agent" && health !== "healthy",
  );
  const lines = [
    ...unhealthy.map(
      ({ name, reason }) =>
        `${name} is unhealthy: ${reason}. ./torpor restart ${name} restarts it.`,
    ),
    ...lineOn(
      "Not running",
      down.filter(({ role }) => role !== "lab"),
      "./torpor up starts what does not run.",
    ),
    ...lineOn(
      "Not running",
      down.filter(({ role }) => role === "lab"),
      "./torpor lab up starts it.",
    ),
    ...problemLines(components),
    ...lineOn(
      "Virtual machines not shown, as their agents do not answer (they may run)",
      silent,
      "./torpor hosts counts them.",
    ),
  ];
  return lines.length === 0 ? [] : [...lines, "Logs: .torpor/fleet/logs"];
}

/** A problem that several components report is listed once: all schedulers see the same hosts. */
function problemLines(components: ComponentStatus[]): string[] {
  const reports = components.flatMap(({ name, problems = [] }) =>
    problems.map((problem) => ({ name, problem })),
  );
  const alike = Map.groupBy(reports, ({ problem: { code, subject } }) => `${code} ${subject}`);
  return [...alike.values()].flatMap((same) => {
    const names = same.map(({ name }) => name).join(", ");
    return same
      .slice(0, 1)
      .map(({ problem: { since, message } }) => `${names}: since ${since}: ${message}`);
  });
}

function problemsOf(health: Health): WorkProblem[] {
  return health.kind === "healthy" && Array.isArray(health.facts["problems"])
    ? (health.facts["problems"] as WorkProblem[])
    : [];
}

function lineOn(what: string, components: ComponentStatus[], advice: string): string[] {
  return components.length === 0
    ? []
    : [`${what}: ${components.map(({ name }) => name).join(", ")}. ${advice}`];
}

/** The VMs in the health report of a node-agent. */
function vmsOf(health: Health): VmStatus[] {
  if (health.kind !== "healthy" || !Array.isArray(health.facts["vms"])) return [];
  const vms = health.facts["vms"] as {
    sandboxId: string;
    hostId: string;
    state: string;
    pid?: number;
  }[];
  return vms.map(({ sandboxId, hostId, pid, state }) => ({
    sandbox: sandboxId,
    host: hostId,
    pid: pid ?? null,
    state,
  }));
}
