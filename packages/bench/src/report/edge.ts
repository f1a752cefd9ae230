/** The cost of the way through the edge, beside the direct way in the same run. */
import { several, type StepResult } from "./result.ts";
import type { Rows } from "./result.ts";

const [DIRECT, EDGE] = ["direct-", "edge-"];

/** Rows of the steps that ran both ways. */
export function edgeRows(steps: readonly StepResult[]): Rows {
  const rows = steps.flatMap((edge) => {
    if (!edge.name.startsWith(EDGE)) return [];
    const kind = edge.name.slice(EDGE.length);
    const direct = steps.find(({ name }) => name === `${DIRECT}${kind}`);
    if (direct === undefined) return [];
    const [slower, before] = [p50(edge), p50(direct)];
    const rates = [direct, edge].map(({ perSecond }) => perSecond.toFixed(perSecond < 100 ? 1 : 0));
    const share = (edge.perSecond / direct.perSecond).toFixed(3);
    const added = (slower - before).toFixed(2);
    const unit = `${several(edge.unit)}/s`;
    return [[kind, unit, ...rates, share, before.toFixed(2), slower.toFixed(2), added]];
  });
  const head = ["", "", "DIRECT", "EDGE", "RATIO", "DIRECT P50 MS", "EDGE P50 MS", "ADDED MS"];
  return { title: "Through the edge, and directly to the same server", head, rows };
}

const p50 = ({ latencies }: StepResult) => Object.values(latencies)[0]?.p50Ms ?? Number.NaN;
