/** `torpor test`: what CI runs. Static checks, then every vitest project; the last line counts the tests. */
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { labDir, runningLab } from "@torpor/lab";
import { type CaseOutcome, hasKvm, inTheLab, onThisMachine, runConformance } from "../conformance.ts";
import { interrupted } from "../local.ts";
import { staleCompatibility } from "../compatibility.ts";
import type { CommandContext } from "../main.ts";
import { firstLines, readReport, REPORT_VARIABLE, type TestReport } from "../test-report.ts";
import { run } from "@torpor/service";
import { beginTestRun } from "@torpor/testkit/test-run";
import { buildImage } from "./image.ts";
import { joinLab } from "./lab.ts";

const PROJECTS = ["unit", "integration", "system", "conformance", "vm"] as const;
const BOOTS_VMS: ReadonlySet<string> = new Set(["conformance", "vm"]);
const CHECKS: [string, string[]][] = [
  ["types", ["typecheck"]],
  ["lint", ["lint"]],
  ["format", ["fmt:check"]],
  ["dead code", ["dead"]],
];

export async function test(context: CommandContext): Promise<number> {
  if (context.args.includes("--driver")) return await conformanceOnReal(context);
  const unknown = context.args.filter((arg) => arg !== "verify" && !(PROJECTS as readonly string[]).includes(arg));
  if (unknown.length > 0) throw new Error(`there is no test project "${unknown[0]}"; there are: verify, ${PROJECTS.join(", ")}`);
  await using _run = await beginTestRun(context.root, context.write);
  const wanted = context.args.length === 0 ? ["verify", ...PROJECTS] : context.args;
  const counts: TestReport = { passed: 0, failed: 0, skipped: 0, failures: [] };
  if (wanted.includes("verify")) for (const [name, args] of CHECKS) await check(context, counts, name, args);
  const projects = PROJECTS.filter((name) => wanted.includes(name));
  const firstOnVms = projects.find((name) => BOOTS_VMS.has(name));
  for (const project of projects) {
    if (project === firstOnVms) await buildImage(context, interrupted());
    const report = await runProject(context, counts, project);
    if (project === "vm") checkCompatibility(context, counts, report);
  }
  summarize(context, counts);
  return counts.failed === 0 ? 0 : 1;
}

function fail(counts: TestReport, what: string): void {
  counts.failed += 1;
  counts.failures.push(what);
}

function summarize({ write }: CommandContext, { passed, failed, skipped, failures }: TestReport): void {
  if (failures.length > 0) write(["", "failed:", ...failures, ""].join("\n"));
  write(`${passed} passed, ${failed} failed${skipped === 0 ? "" : `, ${skipped} skipped`}`);
}

/** `torpor test conformance --driver cloud-hypervisor [--only TEXT]`. Without a binary it says why it ran nothing, which is no failure. */
async function conformanceOnReal(context: CommandContext): Promise<number> {
  const { root, write } = context;
  const { values, positionals } = parseArgs({
    args: context.args,
    allowPositionals: true,
    options: { driver: { type: "string" }, only: { type: "string", default: "" } },
  });
  if (values.driver !== "cloud-hypervisor" || positionals.join() !== "conformance")
    throw new Error("--driver is for: torpor test conformance --driver cloud-hypervisor");
  const binary = process.env["CLOUD_HYPERVISOR_BIN"] ?? "";
  if (binary === "") {
    write("conformance: skipped: CLOUD_HYPERVISOR_BIN names no cloud-hypervisor 53 binary (docs/hosts.md says where releases are)");
    return 0;
  }
  const signal = interrupted();
  const counts: TestReport = { passed: 0, failed: 0, skipped: 0, failures: [] };
  const tell = ({ name, outcome, reason }: CaseOutcome) => {
    write(`${outcome}  ${name}${reason === undefined ? "" : `: ${firstLines(reason)}`}`);
    if (outcome === "failed") fail(counts, `${name}\n${firstLines(reason ?? "")}`);
    else counts[outcome] += 1;
  };
  await buildImage(context, signal);
  if (await hasKvm(root)) {
    write(`conformance: on this machine's KVM, with ${binary}`);
    await runConformance(onThisMachine(root, binary), values.only, tell, signal);
  } else {
    write(`conformance: in the lab host, because this machine's KVM does not boot the image's kernel, with ${binary}`);
    const { fleet, running } = await joinLab(context, "cloud-hypervisor", signal);
    try {
      await runConformance(await inTheLab(root, await runningLab(labDir(root), fleet)), values.only, tell, signal);
    } finally {
      if (running === undefined) await fleet.down();
    }
  }
  summarize(context, counts);
  return counts.failed === 0 ? 0 : 1;
}

/** A static check counts as one test. */
async function check(context: CommandContext, counts: TestReport, name: string, args: string[]): Promise<void> {
  const startedAt = performance.now();
  const { code, output } = await run(["pnpm", "--silent", "run", ...args], { cwd: context.root, isShown: false });
  context.write(`check: ${name}: ${code === 0 ? "ok" : "failed"} (${seconds(startedAt)} s)`);
  if (code === 0) counts.passed += 1;
  else {
    fail(counts, `check: ${name}\n${firstLines(output)}`);
    context.write(output);
  }
}

/** The table in the docs counts as one test. */
function checkCompatibility(context: CommandContext, counts: TestReport, report: string): void {
  const stale = existsSync(report) ? staleCompatibility(report) : "the tests of the clients did not run";
  context.write(`check: compatibility: ${stale ?? "ok"}`);
  if (stale === undefined) counts.passed += 1;
  else fail(counts, `check: compatibility: ${stale}`);
}

/** Returns where vitest's own report is. */
async function runProject(context: CommandContext, counts: TestReport, project: string): Promise<string> {
  const startedAt = performance.now();
  const [report, vitestReport] = [`report-${project}`, `test-${project}`].map((name) => join(context.root, `.torpor/${name}.json`)) as [
    string,
    string,
  ];
  for (const path of [report, vitestReport]) rmSync(path, { force: true });
  const reporters = ["default", "json", join(context.root, "packages/cli/src/test-report.ts")].map((name) => `--reporter=${name}`);
  const args = [
    "pnpm",
    "exec",
    "vitest",
    "run",
    "--project",
    project,
    "--passWithNoTests",
    ...reporters,
    `--outputFile.json=${vitestReport}`,
  ];
  const { code } = await run(args, { cwd: context.root, env: { [REPORT_VARIABLE]: report }, isShown: true });
  const seen = readReport(report);
  counts.passed += seen.passed;
  counts.failed += seen.failed;
  counts.skipped += seen.skipped;
  counts.failures.push(...seen.failures);
  if (code !== 0 && seen.failed === 0)
    fail(counts, `${project}: vitest ended with ${code} and told of no failure; what it printed is above`);
  context.write(`tests: ${project}: ${seen.passed} passed, ${seen.failed} failed, ${seen.skipped} skipped (${seconds(startedAt)} s)`);
  return vitestReport;
}

function seconds(startedAt: number): string {
  return ((performance.now() - startedAt) / 1000).toFixed(1);
}
