/**
 * The driver suite as a plain program, for a machine that has KVM and no test runner:
 * `node run.ts --images DIR --dir DIR`, and optionally `--driver cloud-hypervisor`, `--only TEXT`
 * and `--boot-limit-s N`, with the agent's environment. Prints a line of JSON per case; exits with
 * 1 if one failed.
 */
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { DRIVER_CASES } from "./cases.ts";
import { Subject } from "./target.ts";
import { makeTarget } from "./targets.ts";

const { values } = parseArgs({
  options: {
    images: { type: "string" },
    dir: { type: "string" },
    driver: { type: "string", default: "cloud-hypervisor" },
    only: { type: "string", default: "" },
    "boot-limit-s": { type: "string", default: "240" },
  },
});
const { images, dir, driver, only } = values;
if (
  images === undefined ||
  dir === undefined ||
  (driver !== "qemu" && driver !== "cloud-hypervisor")
)
  throw new Error(
    "usage: run.ts --images DIR --dir DIR [--driver cloud-hypervisor|qemu] [--only TEXT]",
  );

const target = await makeTarget({
  name: driver,
  driver,
  imagesDir: resolve(images),
  dir: resolve(dir),
  bootLimitMs: Number(values["boot-limit-s"]) * 1000,
});
// VMMs do not keep Node's event loop alive, and a case may wait for nothing but the end of one.
const awake = setInterval(() => {}, 60_000);
let failures = 0;
for (const [at, one] of DRIVER_CASES.entries()) {
  if (!one.name.includes(only)) continue;
  const startedAt = performance.now();
  const error = await attempt(at, one);
  if (error !== undefined) failures += 1;
  const ms = Math.round(performance.now() - startedAt);
  process.stdout.write(
    `${JSON.stringify({ name: one.name, outcome: error === undefined ? "passed" : "failed", ms, error })}\n`,
  );
}
clearInterval(awake);
await target.close();
process.exit(failures === 0 ? 0 : 1);

async function attempt(
  at: number,
  one: (typeof DRIVER_CASES)[number],
): Promise<string | undefined> {
  const subject = await Subject.make(target, `case-${at + 1}`);
  try {
    await one.run(subject);
    return undefined;
  } catch (error) {
    return error instanceof Error ? (error.stack ?? error.message) : String(error);
  } finally {
    await subject.dispose();
  }
}
