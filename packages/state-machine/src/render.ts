import { HOST_EVENTS, HOST_STATES, HOST_TABLE, LEASED_STATES } from "./host.ts";
import { OPERATION_EVENTS, OPERATION_STATUSES, OPERATION_TABLE } from "./operation.ts";
import {
  SANDBOX_EVENTS,
  SANDBOX_FACTS,
  SANDBOX_REQUESTS,
  SANDBOX_STATES,
  SANDBOX_TABLE,
} from "./sandbox.ts";

/**
 * Renders the whole of `docs/lifecycle.md` from the tables. A test fails when the file in the
 * repository differs.
 */
export function renderLifecycle(): string {
  return [
    "# Lifecycle",
    "",
    "Generated from `packages/state-machine` by `pnpm generate`; do not edit.",
    "",
    "A request is what a user or the system wants; an observation is what a host reports.",
    "`is_lost` is concluded instead, from the silence of a host whose fence has frozen its VMs.",
    "",
    "`·` = already so (acknowledged, nothing moves), blank = refused.",
    "",
    "## Sandbox",
    "",
    ...diagram(SANDBOX_STATES, SANDBOX_EVENTS, SANDBOX_TABLE),
    "",
    "### Requests",
    "",
    ...matrix("state", SANDBOX_STATES, SANDBOX_REQUESTS, SANDBOX_TABLE),
    "",
    "### Facts",
    "",
    ...matrix("state", SANDBOX_STATES, SANDBOX_FACTS, SANDBOX_TABLE),
    "",
    "## Operation",
    "",
    ...diagram(OPERATION_STATUSES, OPERATION_EVENTS, OPERATION_TABLE),
    "",
    ...matrix("status", OPERATION_STATUSES, OPERATION_EVENTS, OPERATION_TABLE),
    "",
    "## Host",
    "",
    "`return` = what it was before it was lost; `later` = it changes what the host returns as. A",
    "host is drained only if its sandboxes have somewhere to go, and retired only when it has none.",
    "",
    ...diagram(HOST_STATES, HOST_EVENTS, HOST_TABLE),
    "",
    ...matrix("state", HOST_STATES, HOST_EVENTS, HOST_TABLE),
    "",
  ].join("\n");
}

type Table = Record<string, Record<string, string>>;

function diagram(states: readonly string[], events: readonly string[], table: Table): string[] {
  const edges = new Map<string, string[]>();
  for (const from of states) {
    for (const event of events) {
      for (const to of targets(table[from]?.[event])) {
        const key = `  ${from} --> ${to}`;
        edges.set(key, [...(edges.get(key) ?? []), event]);
      }
    }
  }
  return [
    "```mermaid",
    "stateDiagram-v2",
    ...[...edges].map(([edge, labels]) => `${edge}: ${labels.join(", ")}`),
    "```",
  ];
}

function targets(cell: string | undefined): readonly string[] {
  if (cell === undefined || cell === "stay" || cell === "refuse" || cell === "later") return [];
  return cell === "return" ? LEASED_STATES : [cell];
}

function matrix(
  corner: string,
  states: readonly string[],
  events: readonly string[],
  table: Table,
): string[] {
  const cellText = (cell: string | undefined) =>
    cell === "stay" ? "·" : cell === "refuse" || cell === undefined ? "" : cell;
  return [
    `| ${corner} | ${events.join(" | ")} |`,
    `|${"---|".repeat(events.length + 1)}`,
    ...states.map(
      (state) =>
        `| ${state} | ${events.map((event) => cellText(table[state]?.[event])).join(" | ")} |`,
    ),
  ];
}
