export {
  CONTROL_PLANE_STEPS,
  type ControlPlaneStep,
  measureControlPlane,
} from "./control-plane.ts";
export { EDGES } from "./control-plane-fleet.ts";
export { measureDataPlane } from "./data-plane.ts";
export { benchDir, type BenchFleet, startBenchFleet } from "./fleet.ts";
export { measureLifecycle } from "./lifecycle.ts";
export { compareLifecycle, lifecycleRows, plotLifecycle } from "./lifecycle/report.ts";
export { median } from "./median.ts";
export { measurePeers } from "./peers.ts";
export { compare, comparisonRows } from "./report/compare.ts";
export { plotOf } from "./report/plot.ts";
export { readLifecycle, readResult } from "./report/read.ts";
export type { BenchResult, Rows } from "./report/result.ts";
export { rowsOf } from "./report/rows.ts";
export { measureScale } from "./scale.ts";
export { measureSoak } from "./soak.ts";
export { hasGrown, soakRows } from "./soak/series.ts";
