/**
 * `torpor test conformance --driver cloud-hypervisor [--only TEXT]`. Without a binary, the command
 * reports that it ran nothing, which is no failure.
 */
import { parseArgs } from "node:util";
import { labDir, runningLab } from "@torpor/lab";
import {
  type CaseOutcome,
  hasKvm,
  inTheLab,
  onThisMachine,
  runConformance,
} from "../conformance.ts";
import { buildImage } from "../commands/image.ts";
import { joinLab } from "../commands/lab.ts";
import type { CommandContext } from "../main.ts";
import { emptyReport, firstLines, type TestReport } from "./reporter.ts";

export async function conformanceOnReal(
  context: CommandContext,
  signal: AbortSignal,
): Promise<TestReport> {
  const { root, write } = context;
  const report = emptyReport();
  const { values, positionals } = parseArgs({
    args: context.args,
    allowPositionals: true,
    options: { driver: { type: "string" }, only: { type: "string", default: "" } },
  });
  if (values.driver !== "cloud-hypervisor" || positionals.join() !== "conformance")
    throw new Error("--driver is for: torpor test conformance --driver cloud-hypervisor");
  const binary = process.env["CLOUD_HYPERVISOR_BIN"] ?? "";
  if (binary === "") {
    write(
      "conformance: skipped: CLOUD_HYPERVISOR_BIN names no cloud-hypervisor 53 binary (docs/operate/hosts.md says where releases are)",
    );
    return report;
  }
  const tell = ({ name, outcome, reason }: CaseOutcome) => {
    write(`${outcome}  ${name}${reason === undefined ? "" : `: ${firstLines(reason)}`}`);
    report[outcome] += 1;
    if (outcome === "failed") report.failures.push(`${name}\n${firstLines(reason ?? "")}`);
  };
  await buildImage(context, signal);
  if (await hasKvm(root)) {
    write(`conformance: on this machine's KVM, with ${binary}`);
    await runConformance(onThisMachine(root, binary), values.only, tell, signal);
    return report;
  }
  write(
    `conformance: in the lab host, because this machine's KVM does not boot the image's kernel, with ${binary}`,
  );
  const { fleet, running } = await joinLab(context, "cloud-hypervisor", signal);
  try {
    await runConformance(
      await inTheLab(root, await runningLab(labDir(root), fleet)),
      values.only,
      tell,
      signal,
    );
  } finally {
    if (running === undefined) await fleet.down();
  }
  return report;
}
