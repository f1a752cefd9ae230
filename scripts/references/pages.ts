/** The pages of docs/ that are made of tables in the code, by their paths. */
import { renderScenarios } from "./scenarios-page.ts";
import type { Source } from "./sources.ts";
import { renderSubjects } from "./subjects-page.ts";

export function renderPages(sources: readonly Source[]): [path: string, text: string][] {
  return [
    ["docs/scenarios.md", renderScenarios(sources)],
    ["docs/subjects.md", renderSubjects(sources)],
  ];
}
