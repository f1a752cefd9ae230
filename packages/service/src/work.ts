/** Problems with a program's work, for health reports: a connected program may still do no work. */
import type { Reconciler } from "./reconciler.ts";

export interface WorkProblem {
  /** Stable, for programs. */
  code: string;
  /** Subject of the problem: a consumer, a host, a round. */
  subject: string;
  /** RFC 3339. */
  since: string;
  /** Description of the problem, with the remedy. */
  message: string;
}

/** Failing rounds, one problem for each error: without the database, all rounds fail alike. */
export function findFailingRounds(
  rounds: ReadonlyMap<string, Pick<Reconciler, "last">>,
): WorkProblem[] {
  const failing = [...rounds].flatMap(([name, reconciler]) => {
    const { error, failingSince, succeededAt } = reconciler.last() ?? {};
    if (error === undefined || failingSince === undefined) return [];
    return [{ name, error, failingSince, succeededAt }];
  });
  return [...Map.groupBy(failing, ({ error }) => error)].map(([error, alike]) => {
    const names = alike.map(({ name }) => name).join(", ");
    const since = earliest(alike.map(({ failingSince }) => failingSince));
    const succeeded = alike.map(({ succeededAt }) => succeededAt).filter((at) => at !== undefined);
    const isOnceWell = succeeded.length === alike.length;
    const before = isOnceWell
      ? `last succeeded at ${earliest(succeeded)}`
      : "have not succeeded yet";
    const message = `Rounds fail (${names}): ${error}. They ${before}, and are tried again until they do: mend what the error names.`;
    return { code: "ROUNDS_FAIL", subject: names, since, message };
  });
}

/** All times have the same format and time zone. */
function earliest(times: string[]): string {
  return times.toSorted()[0] ?? "";
}
