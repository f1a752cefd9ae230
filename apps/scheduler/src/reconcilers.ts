/**
 * Reconcilers. Each one reads only the database, so that a lost message, a restart and a second
 * scheduler all lead to the same work. A signal only starts a round sooner; the next round is the
 * retry.
 */
import { type SandboxEventType, subjects } from "@torpor/contracts";
import {
  acceptRequest,
  AUTO_PAUSER,
  applyVcpuOvercommit,
  changeSandbox,
  inTransaction,
  insertOutbox,
  listContactlessOperations,
  listDelayedPauses,
  listDrivableOperations,
  listExpiredOperations,
  listExpiredSandboxes,
  listIdleSandboxes,
  listAbandoned,
  listUnreplicated,
  markLostHosts,
  moveOperation,
  type OperationRow,
  countRefused,
  pruneAuditEntries,
  pruneHostChecks,
  pruneHostEvents,
  pruneOutbox,
  pruneRefused,
  pruneSandboxEvents,
  takePendingDeletes,
  type Work,
} from "@torpor/db";
import { beginOperation } from "./operations/begin-operation.ts";
import { systemCommand } from "@torpor/plans";
import { thisMoment } from "./decide.ts";
import type { Deps } from "./deps.ts";
import { drainHosts } from "./drains/drain-hosts.ts";
import { endUnsendable } from "./operations/end-unsendable.ts";
import { expireOperation } from "./operations/expire-operation.ts";
import { requestReplication } from "./hosts/release.ts";
import { restoreAgain, restoreLostRuns } from "./hosts/restore-lost-runs.ts";

/** Rows per round: a backlog is worked off in bounded steps. */
const BATCH = 100;
const DELETE_DEADLINE_MS = 60_000;
const PAUSE_DEADLINE_MS = 300_000;
/** Time after which a host that has not confirmed a delete gets the command again. */
const DELETE_REPEAT_MS = 5_000;
const OUTBOX_KEPT_MS = 3_600_000;
const REFUSED_KEPT_MS = 30 * 24 * 3_600_000;
const HOST_EVENTS_KEPT_MS = 30 * 24 * 3_600_000;
/**
 * A host tries by itself for a few minutes. After that, the command is repeated at this interval.
 */
const REPLICATION_REPEAT_MS = 600_000;

const DELAYED_PAUSE: SandboxEventType = "auto_pause_delayed";

export interface SchedulerReconciler {
  name: string;
  everyMs: number;
  /** Kind of work: without it, rounds are left out. Undefined: every round runs. */
  work?: Work;
  run(deps: Deps): Promise<Record<string, number>>;
}

/**
 * Begins waiting operations: those whose intents were lost, and creates and resumes that wait for
 * capacity.
 */
const driveWaiting: SchedulerReconciler = {
  name: "drive-waiting",
  everyMs: 500,
  work: "waiting",
  async run(deps) {
    const waiting = await listDrivableOperations(deps.db, deps.driveAfterMs, BATCH);
    const each = await Promise.all(waiting.map(({ id }) => beginOperation(deps, id)));
    const begun = each.filter(({ kind }) => kind === "begun").length;
    return { waiting: waiting.length, begun };
  },
};

/** No transitional state outlives its operation's deadline (S10, S11, S16). */
const expireOperations: SchedulerReconciler = {
  name: "expire-operations",
  everyMs: 250,
  work: "overdue",
  async run(deps) {
    const overdue = await listExpiredOperations(deps.db, BATCH);
    const ended = await Promise.all(overdue.map((operation) => expireOperation(deps, operation)));
    return { overdue: overdue.length, expired: ended.filter(Boolean).length };
  },
};

/**
 * A committed operation on a lost host has an unknown outcome, until the host's inventory or its
 * fencing decides. An uncommitted operation ends if another host can do it, so that the client need
 * not wait for the deadline.
 */
const noteLostContact: SchedulerReconciler = {
  name: "note-lost-contact",
  everyMs: 500,
  work: "lostHosts",
  async run(deps) {
    const lost = await markLostHosts(deps.db, deps.hostTerms.leaseMs);
    for (const { id, leaseExpiresAt, lastHeartbeatAt } of lost)
      deps.log.warn(
        { hostId: id, leaseExpiresAt, lastHeartbeatAt },
        "host lost: its lease ran out",
      );
    const contactless = await listContactlessOperations(deps.db, BATCH);
    for (const { id } of contactless)
      await inTransaction(deps.db, (tx) => moveOperation(tx, id, "lose_contact"));
    const abandoned = await listAbandoned(deps.db, BATCH);
    for (const operation of abandoned)
      await expireOperation(deps, operation, abandonedBecause(operation));
    return {
      lostHosts: lost.length,
      outcomeUnknown: contactless.length,
      abandoned: abandoned.length,
    };
  },
};

const abandonedBecause = ({ hostId, kind }: OperationRow) => ({
  code: "HOST_LOST",
  message: `Host ${hostId} was lost before it began the ${kind}. The sandbox is as it was, and does not need that host: ask again, and another one does it.`,
});

/** Restores runs that were lost with their hosts. */
const restoreLost: SchedulerReconciler = {
  name: "restore-lost-runs",
  everyMs: 500,
  work: "lostHosts",
  run: (deps) => restoreLostRuns(deps, BATCH),
};

/** Tries pending restores again. */
const restorePending: SchedulerReconciler = {
  name: "restore-again",
  everyMs: 1_000,
  work: "owedRestores",
  run: (deps) => restoreAgain(deps, BATCH),
};

/** Ends operations whose message was set aside. */
const endStuck: SchedulerReconciler = {
  name: "end-unsendable",
  everyMs: 500,
  work: "refused",
  run: endUnsendable,
};

/** Deletes sandboxes whose timeout has ended, by the code path of a user's delete. */
const expireSandboxes: SchedulerReconciler = {
  name: "expire-sandboxes",
  everyMs: 1_000,
  work: "expired",
  async run(deps) {
    const expired = await listExpiredSandboxes(deps.db, BATCH);
    for (const sandbox of expired) {
      const requester = {
        organizationId: sandbox.organizationId,
        requestedBy: "system:timeout",
        deadlineMs: DELETE_DEADLINE_MS,
      };
      const accepted = await acceptRequest(deps.db, sandbox.id, "delete", requester);
      if (accepted.kind !== "accepted") continue;
      await deps.publishCommitted(accepted.messages);
      await beginOperation(deps, accepted.operation.id);
    }
    return { expired: expired.length };
  },
};

/**
 * Pauses sandboxes that have been idle for as long as their policy states. The host checks again
 * right before the pause (S25, S54).
 */
const pauseIdle: SchedulerReconciler = {
  name: "pause-idle",
  everyMs: 1_000,
  work: "idle",
  async run(deps) {
    const idle = await listIdleSandboxes(deps.db, BATCH);
    let paused = 0;
    for (const { sandbox, idleSeconds } of idle) {
      const { id, organizationId } = sandbox;
      const condition = {
        onlyIfIdleForMs: idleSeconds * 1000,
        deadlineMs: PAUSE_DEADLINE_MS,
        exemptFromQuotas: true,
      };
      const accepted = await acceptRequest(deps.db, id, "pause", {
        organizationId,
        requestedBy: AUTO_PAUSER,
        ...condition,
      });
      if (accepted.kind !== "accepted" || !accepted.isNew) continue;
      await deps.publishCommitted(accepted.messages);
      await beginOperation(deps, accepted.operation.id);
      paused += 1;
    }
    return { idle: idle.length, paused, delayed: await tellDelayedPauses(deps) };
  },
};

/**
 * Reports to the owner, as an event, why a sandbox that is resumed right after each of its pauses
 * continues to run for longer.
 */
async function tellDelayedPauses(deps: Deps): Promise<number> {
  const delayed = await listDelayedPauses(deps.db, DELAYED_PAUSE, BATCH);
  for (const { sandbox, idleSeconds, shortSleeps } of delayed) {
    const { id, organizationId, autoPauseIdleSeconds } = sandbox;
    const message = `It was resumed within a minute of ${shortSleeps} pauses of the last hour, so it is paused after ${idleSeconds} s without use instead of ${autoPauseIdleSeconds} s. Something comes back again and again: a page that reconnects, a health check, a client that polls.`;
    const change = { fact: DELAYED_PAUSE, patch: {}, cause: { code: "RESUMED_TOO_SOON", message } };
    const changed = await changeSandbox(deps.db, id, organizationId, ({ state }) =>
      state === "running" ? change : undefined,
    );
    if (changed !== undefined) await deps.publishCommitted(changed.messages);
  }
  return delayed.length;
}

/** Repeats the command to hosts with pending deletes, until they confirm (S11, S15). */
const collectPendingDeletes: SchedulerReconciler = {
  name: "collect-owed-deletions",
  everyMs: 2_000,
  work: "deleting",
  async run(deps) {
    const messages = await inTransaction(deps.db, async (tx) => {
      const owed = await takePendingDeletes(tx, DELETE_REPEAT_MS, BATCH);
      const reminders = owed.flatMap((sandbox) => {
        const { hostId } = sandbox;
        if (hostId === null) return [];
        return [
          {
            subject: subjects.command(hostId, "delete"),
            payload: systemCommand("delete", sandbox, hostId, thisMoment()),
          },
        ];
      });
      return await insertOutbox(tx, reminders);
    });
    await deps.publishCommitted(messages);
    return { reminded: messages.length };
  },
};

/** Moves sandboxes off draining hosts. */
const drain: SchedulerReconciler = {
  name: "drain-hosts",
  everyMs: 500,
  work: "drains",
  run: drainHosts,
};

/** Repeats the command to copy: a host gives up when the store is away for long. */
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
  run: async (deps) => ({
    pruned: await pruneOutbox(deps.db, OUTBOX_KEPT_MS),
    refusedPruned: await pruneRefused(deps.db, REFUSED_KEPT_MS),
    refused: await countRefused(deps.db),
    hostEvents: await pruneHostEvents(deps.db, HOST_EVENTS_KEPT_MS),
    hostChecks: await pruneHostChecks(deps.db),
    sandboxEvents: await pruneSandboxEvents(deps.db, BATCH),
    auditEntries: await pruneAuditEntries(deps.db),
  }),
};

/**
 * The ratio is a setting of the schedulers, the capacity a column: a scheduler that was started
 * with another ratio updates the hosts.
 */
const overcommitVcpus: SchedulerReconciler = {
  name: "overcommit-vcpus",
  everyMs: 5_000,
  async run(deps) {
    const changed = await applyVcpuOvercommit(deps.db, deps.vcpuOvercommit);
    if (changed.length > 0)
      deps.log.info(
        { hosts: changed, vcpuOvercommit: deps.vcpuOvercommit },
        "vCPU capacity of hosts changed",
      );
    return { changed: changed.length };
  },
};

export const RECONCILERS: readonly SchedulerReconciler[] = [
  driveWaiting,
  expireOperations,
  endStuck,
  noteLostContact,
  restoreLost,
  restorePending,
  expireSandboxes,
  pauseIdle,
  collectPendingDeletes,
  drain,
  overcommitVcpus,
  replicatePaused,
  pruneMessages,
];
