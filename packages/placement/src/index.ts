export type { PlacementHost } from "@torpor/db";
export { type Amounts, FleetView, type Rejection } from "./fleet.ts";
export {
  DEFAULT_PLACEMENT_POLICY,
  type Placement,
  place,
  PLACEMENT_POLICIES,
  type PlacementPolicy,
  type PlacementRequest,
  rank,
  type Ranking,
} from "./placement.ts";
export { goesHome, requestFor, requestToCreate, requestToReturn, type Wanted } from "./request.ts";
