/**
 * Reconcilers: each looks at the database and nothing else, so that a lost message, a restart and a second scheduler all lead to the same work. A signal only makes one run
 * sooner; the next round is the retry.
 */
import { subjects } from "@torpor/contracts";
import {
  acceptRequest,
  inTransaction,
  insertOutbox,
  listContactlessOperations,
  listDrivableOperations,
  listExpiredOperations,
  listExpiredSandboxes,
  listIdleSandboxes,
  listOwedDeletions,
  listUnreplicated,
  markLostHosts,
  moveOperation,
  pruneOutbox,
} from "@torpor/db";
import { beginOperation } from "./begin-operation.ts";
import { systemCommand } from "./commands.ts";
import type { Deps } from "./deps.ts";
import { expireOperation } from "./expire-operation.ts";
import { requestReplication } from "./release.ts";

/** Rows per round: a backlog is worked off in bounded steps. */
const BATCH = 100;
const DELETE_DEADLINE_MS = 60_000;
const PAUSE_DEADLINE_MS = 300_000;
/** A host that has not confirmed a delete by then is told again. */
const DELETE_REPEAT_MS = 5_000;
const OUTBOX_KEPT_MS = 3_600_000;
/** A host tries by itself for a few minutes; after that it is asked again, as often. */
const REPLICATION_REPEAT_MS = 600_000;

export interface SchedulerReconciler {
  name: string;
  everyMs: number;
  run(deps: Deps): Promise<Record<string, number>>;
}

/** Begins what waits: intents that were lost, and creates and resumes that wait for capacity. */
const driveWaiting: SchedulerReconciler = {
  name: "drive-waiting",
  everyMs: 500,
  async run(deps) {
    const waiting = await listDrivableOperations(deps.db, BATCH);
    let begun = 0;
    for (const { id } of waiting) if ((await beginOperation(deps, id)).kind === "begun") begun += 1;
    return { waiting: waiting.length, begun };
  },
};

/** No transitional state outlives its operation's deadline (S10, S11, S16). */
const expireOperations: SchedulerReconciler = {
  name: "expire-operations",
  everyMs: 1_000,
  async run(deps) {
    const overdue = await listExpiredOperations(deps.db, BATCH);
    let expired = 0;
    for (const operation of overdue) if (await expireOperation(deps, operation)) expired += 1;
    return { overdue: overdue.length, expired };
  },
};

/** A committed operation on a lost host: its outcome is unknown until the host's inventory or its fencing decides. */
const noteLostContact: SchedulerReconciler = {
  name: "note-lost-contact",
  everyMs: 1_000,
  async run(deps) {
    const lost = await markLostHosts(deps.db);
    for (const hostId of lost) deps.log.warn({ hostId }, "host lost: its lease ran out");
    const contactless = await listContactlessOperations(deps.db, BATCH);
    for (const { id } of contactless) await moveOperation(deps.db, id, "lose_contact");
    return { lostHosts: lost.length, outcomeUnknown: contactless.length };
  },
};

/** Deletes sandboxes whose timeout ran out, through the same door as a user's delete. */
const expireSandboxes: SchedulerReconciler = {
  name: "expire-sandboxes",
  everyMs: 1_000,
  async run(deps) {
    const expired = await listExpiredSandboxes(deps.db, BATCH);
    for (const sandbox of expired) {
      const requester = { organizationId: sandbox.organizationId, requestedBy: "system:timeout", deadlineMs: DELETE_DEADLINE_MS };
      const accepted = await acceptRequest(deps.db, sandbox.id, "delete", requester);
      if (accepted.kind !== "accepted") continue;
      await deps.publishCommitted(accepted.outboxIds);
      await beginOperation(deps, accepted.operation.id);
    }
    return { expired: expired.length };
  },
};

/** Pauses sandboxes that nobody has used for as long as their policy says. The host looks once more before it does (S25, S54). */
const pauseIdle: SchedulerReconciler = {
  name: "pause-idle",
  everyMs: 1_000,
  async run(deps) {
    const idle = await listIdleSandboxes(deps.db, BATCH);
    let paused = 0;
    for (const { id, organizationId, autoPauseIdleSeconds } of idle) {
      if (autoPauseIdleSeconds === null) continue;
      const condition = { onlyIfIdleForMs: autoPauseIdleSeconds * 1000, deadlineMs: PAUSE_DEADLINE_MS };
      const accepted = await acceptRequest(deps.db, id, "pause", { organizationId, requestedBy: "system:auto-pause", ...condition });
      if (accepted.kind !== "accepted" || !accepted.isNew) continue;
      await deps.publishCommitted(accepted.outboxIds);
      await beginOperation(deps, accepted.operation.id);
      paused += 1;
    }
    return { idle: idle.length, paused };
  },
};

/** Reminds hosts of the clean-up that they owe, until they confirm it (S11, S15). */
const collectOwedDeletions: SchedulerReconciler = {
  name: "collect-owed-deletions",
  everyMs: 2_000,
  async run(deps) {
    const owed = await listOwedDeletions(deps.db, DELETE_REPEAT_MS, BATCH);
    for (const sandbox of owed) {
      if (sandbox.hostId === null) continue;
      const message = { subject: subjects.command(sandbox.hostId, "delete"), payload: systemCommand("delete", sandbox, sandbox.hostId) };
      await deps.publishCommitted(await inTransaction(deps.db, (tx) => insertOutbox(tx, [message])));
    }
    return { owed: owed.length };
  },
};

/** Hosts give up copying to a store that is away for long; then somebody has to ask. */
const replicatePaused: SchedulerReconciler = {
  name: "replicate-paused",
  everyMs: REPLICATION_REPEAT_MS,
  async run(deps) {
    const unreplicated = await listUnreplicated(deps.db, REPLICATION_REPEAT_MS, BATCH);
    for (const sandbox of unreplicated) await requestReplication(deps, sandbox);
    return { asked: unreplicated.length };
  },
};

const pruneMessages: SchedulerReconciler = {
  name: "prune-outbox",
  everyMs: 60_000,
  run: async (deps) => ({ pruned: await pruneOutbox(deps.db, OUTBOX_KEPT_MS) }),
};

export const RECONCILERS: readonly SchedulerReconciler[] = [
  driveWaiting,
  expireOperations,
  noteLostContact,
  expireSandboxes,
  pauseIdle,
  collectOwedDeletions,
  replicatePaused,
  pruneMessages,
];
