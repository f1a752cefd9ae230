/**
 * Create: a new directory, a clone of the golden disk, the golden memory, a new identity. The
 * sandbox holds no user data before it is reported, so after a crash the create starts over; a
 * create that fails leaves nothing.
 */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { copySparsely } from "../host/files.ts";
import { findImage } from "../images/images.ts";
import { type Step, timed } from "../lifecycle/context.ts";
import type { Outcome } from "../lifecycle/outcome.ts";
import { messageOf } from "@torpor/service";
import { linkImage } from "../lifecycle/disk.ts";
import { runFresh } from "../lifecycle/fresh.ts";
import { findGolden, type Golden } from "../images/golden.ts";
import type { VmRecord } from "../lifecycle/record.ts";
import { variablesOf } from "../lifecycle/variables.ts";
import { isGuardable } from "../lifecycle/warm-vm.ts";

export function newSecrets(): Pick<VmRecord, "agentKey" | "machineId"> {
  return { agentKey: randomBytes(32).toString("hex"), machineId: randomBytes(16).toString("hex") };
}

export async function create(step: Step): Promise<Outcome> {
  const { deps, vm, record, journal } = step;
  try {
    const variables = variablesOf(journal.command, deps.commandKey);
    if (step.isWarm && (await timed(step, "assign", () => assignWarm(step))))
      return await begin(step, "restored", variables);
    await deps.driver.end(vm, { graceMs: 0 });
    const image = await findImage(deps.imagesDir, record.spec.imageSha256);
    if (image === undefined)
      throw new Error(`image ${record.spec.imageSha256} is not on this host`);
    const golden = await findGolden(image, deps.driver);
    if (golden === undefined)
      throw new Error(`image ${image.templateName} has no golden snapshot for this host's VMM`);
    await timed(step, "make_disk", () =>
      linkImage(deps, image, vm.dir, (path) => copySparsely(join(golden.dir, "disk.raw"), path)),
    );
    return await begin(step, golden, variables);
  } catch (error) {
    return await undo(step, {
      failed: {
        code: "CREATE_FAILED",
        message: `The sandbox could not be created: ${messageOf(error)}`,
      },
    });
  }
}

async function begin(
  step: Step,
  golden: Golden | "restored",
  variables: Record<string, string>,
): Promise<Outcome> {
  const answer = await runFresh(step, golden, variables);
  if (answer.kind === "granted") return { state: "running" };
  return await undo(step, {
    cancelled: true,
    failed: { code: "OPERATION_CANCELLED", message: `The create backed out: ${answer.reason}.` },
  });
}

/**
 * Makes the warm VM the sandbox's. False: the VM cannot be used, and the create restores another.
 */
async function assignWarm({ deps, vm, record }: Step): Promise<boolean> {
  try {
    // The lease may have changed since the VM was taken.
    if (!(await isGuardable(deps, vm, record.spec)))
      throw new Error("it is older than the lease of this host");
    const { kind } = await deps.driver.inspect(vm);
    if (kind !== "paused") throw new Error(`its VMM says ${kind}`);
    await deps.driver.assign(vm);
    return true;
  } catch (error) {
    deps.log.warn(
      { sandboxId: vm.sandboxId, reason: messageOf(error) },
      "warm VM could not be used; restoring instead",
    );
    return false;
  }
}

async function undo(step: Step, why: Pick<Outcome, "failed" | "cancelled">): Promise<Outcome> {
  await step.deps.driver.end(step.vm, { graceMs: 0 });
  return { state: "failed", ...why };
}
