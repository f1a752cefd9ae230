/**
 * Every public method of the official Python SDK, unmodified, on real virtual machines: sync and
 * async. The program in `python/` calls the methods; the table here lists what the program must
 * report. The names of the tests are rows of docs/compatibility.md.
 */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startVmFleet, type TestFleet } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { note, refused } from "./support.ts";

type Kind = "sync" | "async";
interface Outcome {
  section: string;
  title: string;
  result: "works" | "refused" | "failed";
  note: string | null;
}
interface Report {
  outcomes: Outcome[];
  uncovered: Record<string, string[]>;
}

/** Section and methods; rows of only the sync class are marked. */
const TABLE: [section: string, methods: string, only?: "sync"][] = [
  ["Sandbox", "create"],
  ["Sandbox", "connect"],
  ["Sandbox", "debug", "sync"],
  ["Sandbox", "pause, resume"],
  ["Sandbox", "list, iter"],
  ["Sandbox", "get_info"],
  ["Sandbox", "set_timeout, get_time_to_expiry, is_expiring_soon, get_expiry_info"],
  ["Sandbox", "refresh_token, get_token"],
  ["Sandbox", "is_healthy, ensure_healthy, health_check"],
  ["Sandbox", "get_agent_info"],
  ["Sandbox", "get_preview_url, agent_url"],
  ["Sandbox", "get_metrics_snapshot, get_agent_metrics"],
  ["Sandbox", "list_system_processes, get_jupyter_sessions"],
  ["templates", "list_templates, get_template"],
  ["templates", "delete_template"],
  ["templates", "Template.build"],
  ["Sandbox, code", "run_code"],
  ["Sandbox, code", "run_code_stream"],
  ["Sandbox, code", "run_code_background, list_processes, kill_process"],
  ["Sandbox, code", "run_code_async"],
  ["sandbox.commands", "run"],
  ["sandbox.commands", "run(background=True)"],
  ["sandbox.files", "write, read"],
  ["sandbox.files", "write_bytes, read_bytes"],
  ["sandbox.files", "list"],
  ["sandbox.files", "mkdir, exists, remove"],
  ["sandbox.files", "upload, download", "sync"],
  ["sandbox.files", "errors"],
  ["sandbox.files", "watch"],
  ["sandbox.env", "set_all, get_all"],
  ["sandbox.env", "set, get, update, delete"],
  ["sandbox.cache", "stats, clear"],
  ["sandbox.terminal", "connect, send_input, resize, iter_output"],
  ["sandbox.desktop", "every method", "sync"],
  ["Sandbox", "kill"],
  ["Sandbox", "with"],
];
const PROGRAM = fileURLToPath(new URL("python/run.py", import.meta.url));

let fleet: TestFleet;
let reports: Record<Kind, Report>;
beforeAll(async () => {
  fleet = await startVmFleet();
  const [sync, asynchronous] = await Promise.all([run("sync"), run("async")]);
  reports = { sync, async: asynchronous };
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

async function run(kind: Kind): Promise<Report> {
  const python = process.env["TORPOR_HOPX_PYTHON"];
  if (python === undefined) throw new Error("TORPOR_HOPX_PYTHON is not set: ./torpor test sets it");
  const env = { PATH: process.env["PATH"], HOPX_BASE_URL: fleet.url, HOPX_API_KEY: fleet.apiKey };
  const { stdout } = await promisify(execFile)(python, ["-B", PROGRAM, kind], { env });
  const lines = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Outcome | Pick<Report, "uncovered">);
  return {
    outcomes: lines.filter((line) => "title" in line),
    uncovered: lines.find((line) => "uncovered" in line)?.uncovered ?? {},
  };
}

describe.each<[string, Kind]>([
  ["hopx-ai 0.5.0 (Python): Sandbox", "sync"],
  ["hopx-ai 0.5.0 (Python): AsyncSandbox", "async"],
])("%s", (_, kind) => {
  const rows = TABLE.filter(([, , only]) => only === undefined || only === kind);
  test.for(rows.map(([section, methods]) => [rowOf(section, methods), section, methods] as const))(
    "%s",
    ([, section, methods], context) => {
      const outcome = reports[kind].outcomes.find(
        (one) => one.section === section && one.title === methods,
      );
      if (outcome === undefined) throw new Error("the program has not come to it");
      const text = outcome.note ?? "";
      if (outcome.result === "failed") throw new Error(text);
      if (outcome.result === "refused") refused(context, text);
      else if (text !== "") note(context, text);
    },
  );

  test("every public method has a row here", () => {
    expect(reports[kind].uncovered).toEqual({});
    const seen = reports[kind].outcomes.map(({ section, title }) => rowOf(section, title));
    expect(seen).toEqual(rows.map(([section, methods]) => rowOf(section, methods)));
  });
});

/** Name of a row: methods of a part of the sandbox have the part's name before them. */
function rowOf(section: string, methods: string): string {
  return section.startsWith("sandbox.")
    ? `${section.slice("sandbox.".length)}: ${methods}`
    : methods;
}
