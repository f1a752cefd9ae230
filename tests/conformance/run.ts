/**
 * Runs the cases against one binary, without a test runner, on a machine that has KVM and little
 * else. Needs only this directory of the repository.
 *
 *   node run.ts --bin /usr/bin/cloud-hypervisor --kernel vmlinuz --initrd initrd.img
 *     [--only <part of a name>] [--json]
 *   node run.ts --bin /usr/bin/cloud-hypervisor --image <directory of a sandbox image>
 *     --guest-port 7777 [--guest-boot-limit-s 60] ...
 *
 * Prints one line per case. Ends with 1 when a case failed.
 */
import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { CASES, runCase } from "./cloud-hypervisor-api.ts";
import { probe } from "./support/probe.ts";
import type { Case, StageTarget } from "./support/stage.ts";

interface Outcome {
  outcome: "passed" | "failed" | "skipped";
  reason?: string;
}

const { values } = parseArgs({
  options: {
    bin: { type: "string" },
    kernel: { type: "string" },
    initrd: { type: "string" },
    image: { type: "string" },
    "guest-port": { type: "string" },
    "guest-boot-limit-s": { type: "string", default: "60" },
    only: { type: "string", default: "" },
    json: { type: "boolean", default: false },
  },
});
if (values.bin === undefined) throw new Error("which binary? give --bin <path>");

const image = values.image === undefined ? undefined : await guestOf(resolve(values.image));
const target = await probe({
  bin: resolve(values.bin),
  ...image,
  ...(values.kernel !== undefined && { kernel: resolve(values.kernel) }),
  ...(values.initrd !== undefined && { initrd: resolve(values.initrd) }),
  ...(values["guest-port"] !== undefined && { guestPort: Number(values["guest-port"]) }),
  guestBootLimitMs: Number(values["guest-boot-limit-s"]) * 1000,
});
if (target.noVm !== undefined) process.stderr.write(`without VMs: ${target.noVm}\n`);

const counts = { passed: 0, failed: 0, skipped: 0 };
for (const tried of CASES.filter(({ name }) => name.includes(values.only))) {
  const result = await outcomeOf(target, tried);
  counts[result.outcome] += 1;
  process.stdout.write(`${render(tried, result)}\n`);
}
process.stderr.write(
  `${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped\n`,
);
process.exit(counts.failed === 0 ? 0 : 1);

async function guestOf(dir: string): Promise<Pick<StageTarget, "kernel" | "initrd" | "guest">> {
  const { kernelCmdline, defaults } = JSON.parse(
    await readFile(join(dir, "image.json"), "utf8"),
  ) as {
    kernelCmdline: string;
    defaults: { memoryMib: number };
  };
  const guest = {
    rootfs: join(dir, "rootfs.ext4"),
    cmdline: kernelCmdline,
    memoryBytes: defaults.memoryMib * 1024 ** 2,
  };
  return { kernel: join(dir, "kernel"), initrd: join(dir, "initrd"), guest };
}

async function outcomeOf(of: StageTarget, tried: Case): Promise<Outcome> {
  try {
    const reason = await runCase(of, tried);
    return reason === undefined ? { outcome: "passed" } : { outcome: "skipped", reason };
  } catch (error) {
    return { outcome: "failed", reason: error instanceof Error ? error.message : String(error) };
  }
}

function render({ name, source }: Case, { outcome, reason }: Outcome): string {
  if (values.json)
    return JSON.stringify({ name, source, outcome, ...(reason !== undefined && { reason }) });
  return `${outcome.padEnd(7)} ${source.padEnd(4)} ${name}${reason === undefined ? "" : `: ${reason}`}`;
}
