/**
 * A fleet whose sandboxes are real virtual machines, from the image that `./torpor image` built.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { FleetOptions } from "@torpor/fleet";
import { startTestFleet, type TestFleet } from "./fleet.ts";
import { ROOT } from "./root.ts";

export async function startVmFleet(options: Partial<FleetOptions> = {}): Promise<TestFleet> {
  const imagesDir = join(ROOT, ".torpor/images");
  if (!existsSync(join(imagesDir, "code-interpreter")))
    throw new Error(
      "there is no image to boot: ./torpor image builds it (./torpor test does so by itself)",
    );
  return await startTestFleet({ driver: "qemu", imagesDir, isDurable: true, ...options });
}
