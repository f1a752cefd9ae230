/** Intents and events: what the gateway and the scheduler publish through the outbox. */
import { OPERATION_KINDS, SANDBOX_STATES } from "@torpor/state-machine";
import { type Static, Type } from "typebox";
import { OperationId, SandboxId } from "./ids.ts";

/**
 * An operation was accepted. Subject `torpor.v1.intent.<kind>`. An intent carries no instructions:
 * readers read the row.
 */
export const Intent = Type.Object({
  type: Type.Literal("intent"),
  version: Type.Literal(1),
  kind: Type.Enum(OPERATION_KINDS),
  operationId: OperationId,
  sandboxId: SandboxId,
  traceId: Type.Optional(Type.String()),
});
export type Intent = Static<typeof Intent>;

/**
 * An event of a sandbox. Subject `torpor.v1.sandbox.<sandboxId>.evt.<fact>`; `seq` has no gaps
 * within a sandbox.
 */
export const SandboxEventMessage = Type.Object({
  type: Type.Literal("sandbox_event"),
  version: Type.Literal(1),
  sandboxId: SandboxId,
  seq: Type.Integer({ minimum: 1 }),
  fact: Type.String(),
  from: Type.Union([Type.Enum(SANDBOX_STATES), Type.Null()]),
  to: Type.Enum(SANDBOX_STATES),
  generation: Type.Integer({ minimum: 1 }),
  epoch: Type.Integer({ minimum: 0 }),
  operationId: Type.Optional(OperationId),
  operationStatus: Type.Optional(Type.String()),
  occurredAt: Type.String(),
});
export type SandboxEventMessage = Static<typeof SandboxEventMessage>;
