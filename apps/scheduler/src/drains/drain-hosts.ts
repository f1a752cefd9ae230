/** Empties draining hosts, and undoes what drains that were given up have paused. */
import {
  DRAINER,
  type DrainAtWork,
  endDrain,
  finishDrain,
  finishUndoing,
  listDrainsAtWork,
  listDrainSandboxes,
  listExpiredDrains,
  listSandboxesToMove,
} from "@torpor/db";
import type { Deps } from "../deps.ts";
import { drainSandbox } from "./drain-sandbox.ts";
import { measureDrain } from "./measure.ts";

/** Sandboxes of a drain that one round handles, at most. */
const BATCH = 100;

export async function drainHosts(deps: Deps): Promise<Record<string, number>> {
  for (const { hostId, deadlineAt } of await listExpiredDrains(deps.db)) {
    const cause = {
      code: "DRAIN_EXPIRED",
      message: `The host was not empty by ${deadlineAt?.toISOString()}; what is on it stays.`,
    };
    await endDrain(deps.db, hostId, { endsAs: "expired", requestedBy: DRAINER, cause });
    deps.log.warn({ hostId, deadlineAt }, "drain reached its deadline");
  }
  const atWork = await listDrainsAtWork(deps.db);
  let finished = 0;
  for (const drain of atWork) {
    await driveSandboxes(deps, drain);
    // The sandboxes of a lost host have not left it.
    if (drain.isHostLost && drain.status === "active") continue;
    const isFinished =
      drain.status === "active"
        ? await finishDrain(deps.db, drain)
        : await finishUndoing(deps.db, drain);
    if (!isFinished) continue;
    finished += 1;
    deps.log.info(
      { hostId: drain.hostId, drainId: drain.id, as: drain.endsAs ?? "done" },
      "drain ended",
    );
  }
  return { drains: atWork.length, finished };
}

async function driveSandboxes(deps: Deps, drain: DrainAtWork): Promise<void> {
  if (drain.status === "active" && !drain.isHostLost) {
    await listSandboxesToMove(deps.db, drain);
    await measureDrain(deps, drain);
  }
  let isFull = false;
  for (const { sandboxId, workingSince } of await listDrainSandboxes(deps.db, drain.id, BATCH)) {
    if (isFull && workingSince === null && drain.status === "active") continue;
    if ((await drainSandbox(deps, drain, sandboxId)) === "full") isFull = true;
  }
}
