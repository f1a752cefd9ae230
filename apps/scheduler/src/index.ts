/** Placement for other programs: it has no process, no database and no clock. */
export type { PlacementHost } from "@torpor/db";
export { type Amounts, Fleet } from "./fleet.ts";
export { DEFAULT_PLACEMENT_POLICY, place, PLACEMENT_POLICIES, type PlacementPolicy, type PlacementRequest } from "./placement.ts";
