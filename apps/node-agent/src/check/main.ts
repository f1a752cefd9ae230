/**
 * `torpor-node-agent check`: prints a line for each thing that a host needs, and the remedy where
 * it is missing. Exits with 1 if something required is missing.
 */
import { execFile } from "node:child_process";
import { CHECKS, checkMachine, renderReport, settingsFrom } from "./report.ts";

const machine = { root: "", env: process.env, settings: settingsFrom(process.env), run };
const report = await checkMachine(machine, CHECKS);
process.stdout.write(renderReport(report));
process.exitCode = report.some(({ finding }) => finding.kind === "missing") ? 1 : 0;

async function run(command: string, args: string[]): Promise<{ code: number; output: string }> {
  return await new Promise((resolve) => {
    execFile(command, args, { timeout: 10_000 }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === "number" ? error.code : 127;
      resolve({ code, output: `${stdout}${stderr}` });
    });
  });
}
