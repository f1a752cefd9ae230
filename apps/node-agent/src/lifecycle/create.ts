/**
 * Create: a new directory, a copy of the golden disk, the golden memory, a new identity. Nothing of a user's is in it before it is reported, so after a crash it simply starts
 * over; a create that fails leaves nothing.
 */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { copySparsely, readJson } from "../host/files.ts";
import { findImage } from "../images.ts";
import { mayCommit, messageOf, type Outcome, type Step, timed } from "./context.ts";
import { linkImage } from "./disk.ts";
import { goldenDir } from "./golden.ts";
import type { Manifest } from "./snapshot.ts";
import type { VmRecord } from "./record.ts";

const GUEST_LIMIT_MS = 60_000;

export function newSecrets(): Pick<VmRecord, "agentKey" | "machineId"> {
  return { agentKey: randomBytes(32).toString("hex"), machineId: randomBytes(16).toString("hex") };
}

export async function create(step: Step): Promise<Outcome> {
  const { deps, vm, record } = step;
  try {
    await deps.driver.end(vm, { graceMs: 0 });
    const image = await findImage(deps.imagesDir, record.spec.imageSha256);
    if (image === undefined) throw new Error(`image ${record.spec.imageSha256} is not on this host`);
    const golden = goldenDir(image, await deps.driver.fingerprint());
    const manifest = await readJson<Manifest>(join(golden, "manifest.json"));
    if (manifest === undefined) throw new Error(`image ${image.templateName} has no golden snapshot for this host's VMM`);
    await timed(step, "make_disk", () => linkImage(deps, image, vm.dir, (path) => copySparsely(join(golden, "disk.raw"), path)));
    const restored = await timed(step, "restore", () => deps.driver.restore(vm, golden, manifest.files, step.signal));
    if (restored.kind === "refused") throw new Error(`the golden snapshot cannot be used: ${restored.reason}`);
    const answer = await mayCommit(step);
    if (answer.kind === "refused")
      return await undo(step, {
        cancelled: true,
        failed: { code: "OPERATION_CANCELLED", message: `The create backed out: ${answer.reason}.` },
      });
    await deps.driver.resumeVcpus(vm);
    await timed(step, "greet_guest", async () => {
      if (!(await deps.guest.waitHealthy(vm, GUEST_LIMIT_MS, step.signal))) throw new Error("the guest agent did not answer");
      await deps.guest.becomeSandbox(vm, record, "post-restore", true);
    });
    return { state: "running" };
  } catch (error) {
    return await undo(step, { failed: { code: "CREATE_FAILED", message: `The sandbox could not be created: ${messageOf(error)}` } });
  }
}

async function undo(step: Step, why: Pick<Outcome, "failed" | "cancelled">): Promise<Outcome> {
  await step.deps.driver.end(step.vm, { graceMs: 0 });
  return { state: "failed", ...why };
}
