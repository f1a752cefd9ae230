/** Start: a fresh system on the sandbox's disk. */
import { messageOf } from "@torpor/service";
import { findImage } from "../images/images.ts";
import type { Step } from "../lifecycle/context.ts";
import type { Outcome } from "../lifecycle/outcome.ts";
import { runFresh } from "../lifecycle/fresh.ts";
import { findGolden } from "../images/golden.ts";

/** stopped → running */
export async function start(step: Step): Promise<Outcome> {
  const { deps, vm, record } = step;
  try {
    await deps.driver.end(vm, { graceMs: 0 });
    const image = await findImage(deps.imagesDir, record.spec.imageSha256);
    const golden = image === undefined ? undefined : await findGolden(image, deps.driver);
    const answer = await runFresh(step, golden);
    if (answer.kind === "granted") return { state: "running" };
    return {
      state: "stopped",
      cancelled: true,
      isUntouched: true,
      failed: { code: "OPERATION_CANCELLED", message: `The start backed out: ${answer.reason}.` },
    };
  } catch (error) {
    await deps.driver.end(vm, { graceMs: 0 });
    return {
      state: "stopped",
      failed: {
        code: "START_FAILED",
        message: `The sandbox did not start; its files are kept: ${messageOf(error)}`,
      },
    };
  }
}
