import { messageOf } from "@torpor/service";
import {
  type Check,
  type CheckSettings,
  type Finding,
  type CheckedMachine,
  missing,
} from "./finding.ts";
import { KERNEL_CHECKS } from "./kernel.ts";
import { PROGRAM_CHECKS } from "./programs.ts";
import { SERVICE_CHECKS } from "./service.ts";
import { STORAGE_CHECKS } from "./storage.ts";

export interface Checked {
  name: string;
  finding: Finding;
}

export const CHECKS: Check[] = [
  ...KERNEL_CHECKS,
  ...PROGRAM_CHECKS,
  ...STORAGE_CHECKS,
  ...SERVICE_CHECKS,
];

const DEFAULT_VMM_UID = 64_055;
const HEADS = { ok: "ok      ", advised: "advised ", missing: "MISSING " } as const;

/**
 * Settings, without the agent's schema: a check has to work where the agent's settings are invalid.
 */
export function settingsFrom(env: NodeJS.ProcessEnv): CheckSettings {
  const given = (name: string) => env[name] || undefined;
  const dataDir = given("DATA_DIR") ?? "/var/lib/torpor";
  return {
    driver: given("DRIVER") ?? "cloud-hypervisor",
    vmmUid: Number(given("VMM_UID") ?? DEFAULT_VMM_UID),
    dataDir,
    imagesDir: given("IMAGES_DIR") ?? "/var/lib/torpor/images",
    snapshotStore: given("SNAPSHOT_STORE") ?? "none",
    snapshotStoreDir: given("SNAPSHOT_STORE_DIR"),
    natsUrl: given("NATS_URL"),
    cloudHypervisorBin: given("CLOUD_HYPERVISOR_BIN"),
    cloudHypervisorDir: given("CLOUD_HYPERVISOR_DIR") ?? "/usr/lib/torpor/cloud-hypervisor",
    secretFiles: ["NATS_SEED_FILE", "NATS_PASSWORD_FILE", "TLS_KEY_FILE", "HOST_DATA_KEY_FILE"]
      .map(given)
      .filter((file) => file !== undefined),
  };
}

/** Runs all checks. A check that throws is reported as missing, and the others continue. */
export async function checkMachine(machine: CheckedMachine, checks: Check[]): Promise<Checked[]> {
  return await Promise.all(
    checks.map(async ({ name, look }) => {
      const finding = await look(machine).catch((error: unknown) =>
        missing(
          `could not be looked at: ${messageOf(error)}`,
          "run this check as root; if it stays, it is a bug of the check",
        ),
      );
      return { name, finding };
    }),
  );
}

export function renderReport(report: Checked[]): string {
  const width = Math.max(...report.map(({ name }) => name.length));
  const lines = report.flatMap(({ name, finding }) => {
    const line = `${HEADS[finding.kind]}${name.padEnd(width)}  ${finding.found}`;
    return finding.kind === "ok"
      ? [line]
      : [line, `${" ".repeat(HEADS.ok.length + width)}  → ${finding.remedy}`];
  });
  const lacking = report.filter(({ finding }) => finding.kind === "missing").length;
  const verdict =
    lacking === 0
      ? "This machine has what a host needs."
      : `${lacking} of ${report.length} required things are missing.`;
  return `${[...lines, "", verdict].join("\n")}\n`;
}
