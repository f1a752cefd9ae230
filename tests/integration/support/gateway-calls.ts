/** What a gateway asks the database for one sandbox or for a user, with 200,000 sandboxes. */
import type { OperationId } from "@torpor/contracts";
import {
  acceptCreate,
  acceptRequest,
  type Database,
  findEdgeSandboxes,
  findOperation,
  findOperationEnds,
  findSandbox,
  findSandboxByEdgeAddress,
  listEvents,
  listSandboxes,
  patchSandbox,
  readQuotas,
  revokeTokens,
  setTimeoutSeconds,
} from "@torpor/db";
import { goesHome } from "@torpor/placement";
import { aRequester, aSandbox, type TestDatabase } from "@torpor/testkit";
import { idOf } from "./large-database.ts";

/** Sandboxes 0 and 2 of each hundred run, 6 to 98 are paused; even ones are the organization's. */
const running = (time: number) => idOf(2_000 + 100 * time);
const paused = (time: number) => idOf(2_010 + 100 * time);

/** By name, with what differs from one time to the next. `own` is for one organization. */
export type Calls = Record<string, (time: number) => Promise<unknown>>;

export function gatewayCalls(
  own: Database,
  every: Database,
  { organizationId }: Pick<TestDatabase, "organizationId">,
): Calls {
  const requester = () => aRequester({ organizationId });
  return {
    "a create": () => acceptCreate(own, aSandbox(), requester()),
    "a pause, which begins at once": (time) =>
      acceptRequest(own, running(time), "pause", requester()),
    "a pause of what is paused": (time) => acceptRequest(own, paused(time), "pause", requester()),
    "a resume, for which a host is chosen": (time) =>
      acceptRequest(own, paused(time), "resume", requester()),
    "a resume at home": (time) =>
      acceptRequest(own, paused(100 + time), "resume", requester(), goesHome),
    "a delete": (time) => acceptRequest(own, paused(200 + time), "delete", requester()),
    "a request with a key": (time) =>
      acceptRequest(own, paused(300 + time), "stop", {
        ...requester(),
        idempotencyKey: `key-${time}`,
        requestSha256: "x",
      }),
    "settings of one": (time) =>
      patchSandbox(own, paused(400 + time), organizationId, { autoResume: true }),
    "a timeout": (time) => setTimeoutSeconds(own, paused(400 + time), organizationId, 600),
    "new tokens": (time) => revokeTokens(own, paused(400 + time), organizationId),
    "a sandbox": (time) => findSandbox(own, paused(time), organizationId),
    "a page of sandboxes": () => listSandboxes(own, { organizationId, limit: 100 }),
    "what happened to one": (time) => listEvents(own, paused(time), 100),
    "an operation": () => findOperation(own, "op_1" as OperationId),
    "ends of operations": () =>
      findOperationEnds(own, ["op_1" as OperationId, "op_2" as OperationId]),
    quotas: () => readQuotas(own, organizationId + 5),
    "sandboxes of the edge": (time) => findEdgeSandboxes(every, [running(time)]),
    "a sandbox by its address": (time) => findSandboxByEdgeAddress(every, `10.${2_000 + time}`),
  };
}
