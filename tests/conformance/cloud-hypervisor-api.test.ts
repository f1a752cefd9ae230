/**
 * The facts of cloud-hypervisor-api.ts: always tried with the fake, and with the real binary that
 * CLOUD_HYPERVISOR_BIN names, where a VM can run.
 */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { describe, test } from "vitest";
import { GUEST_AGENT_PORT } from "@torpor/contracts";
import { setFaults } from "@torpor/fake-cloud-hypervisor";
import { FAKE_CLOUD_HYPERVISOR_BIN } from "@torpor/programs";
import { CASES, runCase } from "./cloud-hypervisor-api.ts";
import { probe } from "./support/probe.ts";
import type { StageTarget } from "./support/stage.ts";

const IMAGE = resolve(import.meta.dirname, "../../.torpor/images/code-interpreter");
const GUEST_BOOT_LIMIT_MS = 60_000;

const fake: StageTarget = {
  bin: FAKE_CLOUD_HYPERVISOR_BIN,
  guestPort: GUEST_AGENT_PORT,
  guestBootLimitMs: GUEST_BOOT_LIMIT_MS,
  setFaults,
};
const real = await realTarget();

describe("the fake Cloud Hypervisor", () => {
  for (const fact of CASES)
    test(`${fact.source}: ${fact.name}`, async (context) => {
      const reason = await runCase(fake, fact);
      if (reason !== undefined) context.skip(reason);
    });
});

describe("the real Cloud Hypervisor", () => {
  test("is named, and gives a VM here", (context) => {
    const reason = typeof real === "string" ? real : real.noVm;
    if (reason !== undefined) context.skip(reason);
  });
  for (const fact of typeof real === "string" ? [] : CASES)
    test(`${fact.source}: ${fact.name}`, async (context) => {
      const reason = typeof real === "string" ? real : await runCase(real, fact);
      if (reason !== undefined) context.skip(reason);
    });
});

/** Returns a string with the reason when there is no real target. */
async function realTarget(): Promise<StageTarget | string> {
  const bin = process.env["CLOUD_HYPERVISOR_BIN"];
  const reason =
    bin === undefined
      ? "CLOUD_HYPERVISOR_BIN names no binary"
      : !existsSync(bin)
        ? `there is no ${bin}`
        : undefined;
  const files = existsSync(IMAGE)
    ? { kernel: resolve(IMAGE, "kernel"), initrd: resolve(IMAGE, "initrd") }
    : {};
  const target =
    reason ??
    (await probe({ bin: resolve(bin ?? ""), ...files, guestBootLimitMs: GUEST_BOOT_LIMIT_MS }));
  const without = typeof target === "string" ? target : target.noVm;
  if (without !== undefined)
    process.stderr.write(`the real Cloud Hypervisor is left out: ${without}\n`);
  return target;
}
