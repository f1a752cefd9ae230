/** The driver suite on QEMU with a real guest. */
import { join } from "node:path";
import { recordLeftover, ROOT } from "@torpor/testkit";
import { describe } from "vitest";
import { QEMU_CASES } from "./qemu-cases.ts";
import { driverSuite } from "./suite.ts";
import { makeTarget } from "./targets.ts";

describe("QEMU with a real guest", () => {
  driverSuite(async (parent) => {
    const dir = join(parent, "host");
    recordLeftover({ kind: "host", name: dir });
    const imagesDir = join(ROOT, ".torpor/images");
    return await makeTarget({ name: "qemu", driver: "qemu", imagesDir, dir });
  }, QEMU_CASES);
});
