/** A new sandbox: its row, and its create operation. */
import type { SandboxId } from "@torpor/contracts";
import type { Moment } from "./commands.ts";
import { announcement, type Plan } from "./plan.ts";
import { intentOf, queued, type Requester } from "./request.ts";

/** `columns`: the columns of the new row, named as in the schema of packages/db. */
export function planCreate(
  columns: { id: SandboxId } & Record<string, unknown>,
  requester: Requester,
  { newOperationId }: Moment,
): Plan {
  const { id: sandboxId } = columns;
  const { organizationId, exemptFromQuotas } = requester;
  const queues = queued(newOperationId(), "create", requester);
  const event = {
    seq: 1,
    fact: "accepted" as const,
    fromState: null,
    toState: "creating" as const,
    generation: 1,
    epoch: 0,
    operationId: queues.id,
    cause: null,
  };
  return {
    sandboxId,
    generation: 0,
    creates: { ...columns, organizationId },
    after: {
      state: event.toState,
      settledState: event.toState,
      generation: event.generation,
      lastSeq: event.seq,
    },
    clearsEnvironment: false,
    events: [event],
    operations: [],
    claims: [],
    isObserved: false,
    placed: null,
    apart: null,
    lost: null,
    dueRestore: null,
    open: null,
    unlimitedOrganizationId: exemptFromQuotas === true ? null : organizationId,
    queues,
    cancels: null,
    joins: null,
    effects: {},
    messages: [announcement(sandboxId, event, "waiting"), intentOf(columns, queues)],
  };
}
