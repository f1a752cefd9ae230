/**
 * Ends operations whose message can never be sent, with the reason. Otherwise no scheduler would
 * begin them, or no host run them, and the client would wait for their deadline.
 */
import { type Cause, hostIdOf } from "@torpor/contracts";
import { listUnsendable, type Unsendable } from "@torpor/db";
import type { Deps } from "../deps.ts";
import { expireOperation } from "./expire-operation.ts";

export async function endUnsendable(deps: Deps): Promise<Record<string, number>> {
  const stuck = await listUnsendable(deps.db);
  let ended = 0;
  for (const unsendable of stuck)
    if (
      await expireOperation(
        deps,
        unsendable.operation,
        causeOf(unsendable),
        unsendable.operation.status,
      )
    )
      ended += 1;
  return { stuck: stuck.length, ended };
}

function causeOf({ operation, subject, reason }: Unsendable): Cause {
  const hostId = hostIdOf(subject);
  const recipient = hostId === undefined ? "the schedulers" : `host ${hostId}`;
  const message =
    `The ${operation.kind} was not carried out: its message to ${recipient} can never be sent, ` +
    `because ${reason}. An operator finds it in the health report of the schedulers.`;
  return { code: "MESSAGE_NOT_SENDABLE", message };
}
