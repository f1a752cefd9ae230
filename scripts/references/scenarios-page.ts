/** docs/scenarios.md. */
import { linkTo, madeOf, row } from "./markdown.ts";
import { SCENARIOS } from "./scenarios.ts";
import { isTest, type Source, titlesIn } from "./sources.ts";

/** Files whose tests name the scenario; element 0 belongs to S1. */
export function guardsOf(sources: readonly Source[]): string[][] {
  const guards = SCENARIOS.map(() => new Set<string>());
  for (const source of sources.filter(isTest))
    for (const [, number] of titlesIn(source)
      .join(" ")
      .matchAll(/\bS(\d+)/g))
      guards[Number(number) - 1]?.add(source.path);
  return guards.map((paths) => [...paths]);
}

export function renderScenarios(sources: readonly Source[]): string {
  const guards = guardsOf(sources);
  return [
    "# Acceptance scenarios",
    "",
    madeOf("scripts/references/scenarios.ts"),
    "",
    "What users of systems like this one have reported, and what Torpor promises instead. The names of",
    "tests begin with the numbers (`S13: …`), so that a failed test says which promise is broken.",
    "",
    "| | reported | promised | guarded by |",
    "|---|---|---|---|",
    ...SCENARIOS.map(({ report, promise, untested }, at) => {
      const tests = (guards[at] ?? []).map(linkTo).join(", ");
      return row(`S${at + 1}`, report, promise, untested ?? tests);
    }),
    "",
  ].join("\n");
}
