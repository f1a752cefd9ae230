/**
 * The driver suite as tests of vitest. `./torpor test conformance --driver cloud-hypervisor` runs
 * it on a real Cloud Hypervisor (run.ts).
 */
import { tempDir } from "@torpor/testkit";
import { afterAll, beforeAll, test } from "vitest";
import { DRIVER_CASES, type DriverCase } from "./cases.ts";
import { Subject, type DriverTarget } from "./target.ts";

/** Registers the suite's hooks and tests; to be called inside a `describe`. */
export function driverSuite(
  makeIt: (dir: string) => Promise<DriverTarget>,
  own: DriverCase[] = [],
): void {
  let dir: Awaited<ReturnType<typeof tempDir>>;
  let target: DriverTarget | undefined;
  beforeAll(async () => {
    dir = await tempDir();
    target = await makeIt(dir.path);
  });
  afterAll(async () => {
    await target?.close();
    await dir[Symbol.asyncDispose]();
  });
  test.each([...DRIVER_CASES, ...own].map((one, at) => ({ name: one.name, one, at })))(
    "$name",
    async ({ one, at }) => {
      if (target === undefined) throw new Error("there is no target");
      const subject = await Subject.make(target, `case-${at + 1}`);
      try {
        await one.run(subject);
      } finally {
        await subject.dispose();
      }
    },
  );
}
