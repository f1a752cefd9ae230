/** The pages of docs/ that are generated from tables in the code, by their paths. */
import {
  CAUSE_CODES,
  ERROR_CODES,
  HOST_EVENT_TYPES,
  SANDBOX_EVENT_TYPES,
} from "../../packages/contracts/src/index.ts";
import { madeOf, row } from "./markdown.ts";
import { renderScenarios } from "./scenarios-page.ts";
import type { Source } from "./sources.ts";
import { renderSubjects } from "./subjects-page.ts";

export function renderPages(sources: readonly Source[]): [path: string, text: string][] {
  return [
    ["docs/errors.md", renderErrors()],
    ["docs/events.md", renderEvents()],
    ["docs/scenarios.md", renderScenarios(sources)],
    ["docs/subjects.md", renderSubjects(sources)],
  ];
}

function renderErrors(): string {
  const answers = Object.entries(ERROR_CODES).toSorted(([, a], [, b]) => a.status - b.status);
  return [
    "# Error codes",
    "",
    madeOf("packages/contracts/src/api/error-codes.ts"),
    "",
    "Codes never change their meaning, and a 5xx is an outage: the SDKs send those requests again, body",
    "and all. [api.md](api.md#errors) shows the body of an error. Codes of the API inside a sandbox are",
    "in [sandbox-api.md](sandbox-api.md#errors), problems of the programs in",
    "[deployment.md](operate/deployment.md#problems-in-health-reports), and what to do about them in",
    "[troubleshooting.md](operate/troubleshooting.md).",
    "",
    "## Answers",
    "",
    "| status | code | when | what to do |",
    "|---|---|---|---|",
    ...answers.map(([code, { status, when, remedy }]) =>
      row(`${status}`, `\`${code}\``, when, remedy),
    ),
    "",
    "## Causes",
    "",
    "A cause says why an operation ended, why a sandbox is as it is, or what an event is about. A request",
    "that waits for an operation which ended so is answered with 409 and the code of the cause.",
    "",
    "| code | when | what to do |",
    "|---|---|---|",
    ...Object.entries(CAUSE_CODES).map(([code, { when, remedy }]) =>
      row(`\`${code}\``, when, remedy),
    ),
    "",
  ].join("\n");
}

function renderEvents(): string {
  return [
    "# Event types",
    "",
    madeOf("packages/contracts/src/event-types.ts"),
    "",
    "The type of an event is its field `fact`. Clients have to expect types that they do not know.",
    "",
    "## Sandboxes",
    "",
    "`GET /v1/sandboxes/{id}/events`. An event has the state before and after it, the epoch of the run,",
    "the operation that it belongs to, and the cause where something went wrong ([errors.md](errors.md)).",
    "",
    ...types(SANDBOX_EVENT_TYPES),
    "",
    "## Hosts",
    "",
    "`GET /v1/hosts/{id}/events`. An event has the state before and after it, who asked for it, and the",
    "cause where something went wrong.",
    "",
    ...types(HOST_EVENT_TYPES),
    "",
  ].join("\n");
}

const types = (table: Record<string, string>) => [
  "| type | what it says |",
  "|---|---|",
  ...Object.entries(table).map(([type, says]) => row(`\`${type}\``, says)),
];
