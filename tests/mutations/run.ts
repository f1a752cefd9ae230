/**
 * Breaks one rule of the product at a time and shows that the ordinary tests notice:
 * `node tests/mutations/run.ts [--only TEXT]`, TEXT being a part of a mutation's name or rule.
 *
 * The guards of the mutations run first on the unbroken product, and must be green. Prints a line
 * per run, and the counts at the end. Ends with 1 when a mutation survived or could not be decided.
 */
import { parseArgs } from "node:util";
import { ROOT } from "./copy.ts";
import { outOfDate } from "./edit.ts";
import { runGuard, typeErrors, type Verdict } from "./guard.ts";
import { type Guard, type Mutation, MUTATIONS } from "./mutations.ts";

const AT_ONCE = 2;
const OUTCOMES = { green: "survived", red: "caught", undecided: "undecided" } as const;
const NOT_GREEN: Verdict = { kind: "undecided", why: "its guard is not green without it" };

const interruption = new AbortController();
for (const name of ["SIGINT", "SIGTERM"] as const)
  process.once(name, () => interruption.abort(new Error(`interrupted by ${name}`)));

const { values } = parseArgs({ options: { only: { type: "string", default: "" } } });
await main(values.only, interruption.signal).then(
  (code) => process.exit(code),
  (error: unknown) => {
    process.stderr.write(`mutations: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(1);
  },
);

async function main(only: string, signal: AbortSignal): Promise<number> {
  const chosen = MUTATIONS.filter(({ name, rule }) => name.includes(only) || rule.includes(only));
  if (chosen.length === 0) throw new Error(`none has "${only}" in its name or rule`);
  const problems = await Promise.all(chosen.map((mutation) => outOfDate(ROOT, mutation)));
  const outdated = problems.filter((problem) => problem !== undefined);
  if (outdated.length > 0) throw new Error(outdated.join("\n"));
  const errors = await typeErrors(chosen, signal);
  if (errors !== undefined)
    throw new Error(`with these mutations the product has wrong types:\n${errors}`);
  const green = await greenGuards(chosen, signal);
  const counts = { caught: 0, survived: 0, undecided: 0 };
  await inParallel(chosen, async (mutation) => {
    const { verdict, seconds } = await timed(async () =>
      green.has(keyOf(mutation)) ? await runGuard(mutation, signal, mutation) : NOT_GREEN,
    );
    const outcome = OUTCOMES[verdict.kind];
    counts[outcome] += 1;
    write(outcome, mutation.name, seconds, explanationOf(verdict));
  });
  const { caught, survived, undecided } = counts;
  const rest = undecided === 0 ? "" : `, ${undecided} undecided`;
  process.stdout.write(`${caught} caught, ${survived} survived${rest}\n`);
  return caught === chosen.length ? 0 : 1;
}

/** Runs each distinct guard once on the unbroken product. Returns the keys of the green ones. */
async function greenGuards(mutations: Mutation[], signal: AbortSignal): Promise<Set<string>> {
  const green = new Set<string>();
  const guards = new Map<string, Guard>(mutations.map((mutation) => [keyOf(mutation), mutation]));
  await inParallel([...guards], async ([key, guard]) => {
    const { verdict, seconds } = await timed(() => runGuard(guard, signal));
    if (verdict.kind === "green") green.add(key);
    write(verdict.kind, guard.guards.join(", "), seconds, explanationOf(verdict));
  });
  return green;
}

/** Key of a guard; guards that are the same run have the same key. */
function keyOf({ project, guards, tests }: Guard): string {
  return JSON.stringify([project, guards, tests]);
}

function explanationOf(verdict: Verdict): string {
  switch (verdict.kind) {
    case "green":
      return "";
    case "red":
      return `\n          ${verdict.by}`;
    case "undecided":
      return `\n          ${verdict.why}`;
  }
}

function write(outcome: string, what: string, seconds: string, explanation: string): void {
  process.stdout.write(`${outcome.padEnd(9)} ${what} (${seconds} s)${explanation}\n`);
}

async function timed(run: () => Promise<Verdict>): Promise<{ verdict: Verdict; seconds: string }> {
  const startedAt = performance.now();
  const verdict = await run();
  return { verdict, seconds: ((performance.now() - startedAt) / 1000).toFixed(1) };
}

/** Rejects only when all have ended: a guard that still runs would be cut off in its clean-up. */
async function inParallel<T>(items: T[], body: (item: T) => Promise<void>): Promise<void> {
  const left = [...items];
  const work = async () => {
    for (let item = left.shift(); item !== undefined; item = left.shift()) await body(item);
  };
  const ends = await Promise.allSettled(Array.from({ length: AT_ONCE }, work));
  for (const end of ends) if (end.status === "rejected") throw end.reason;
}
