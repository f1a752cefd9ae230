/** The driver suite on the fake Cloud Hypervisor and on QEMU with a real guest. `./torpor test conformance --driver cloud-hypervisor` has it on a real Cloud Hypervisor (run.ts). */
import { join } from "node:path";
import { recordLeftover, ROOT, tempDir } from "@torpor/testkit";
import { afterAll, beforeAll, describe, test } from "vitest";
import { DRIVER_CASES, type DriverCase } from "./cases.ts";
import { makeFakeTarget } from "./fake-target.ts";
import { QEMU_CASES } from "./qemu-cases.ts";
import { Subject, type Target } from "./target.ts";
import { makeTarget } from "./targets.ts";

/** The suite's hooks and tests; called inside a `describe`. */
function suite(makeIt: (dir: string) => Promise<Target>, own: DriverCase[] = []): void {
  let dir: Awaited<ReturnType<typeof tempDir>>;
  let target: Target | undefined;
  beforeAll(async () => {
    dir = await tempDir();
    target = await makeIt(dir.path);
  });
  afterAll(async () => {
    await target?.close();
    await dir[Symbol.asyncDispose]();
  });
  test.each([...DRIVER_CASES, ...own].map((one, at) => ({ name: one.name, one, at })))("$name", async ({ one, at }) => {
    if (target === undefined) throw new Error("there is no target");
    const subject = await Subject.make(target, `case-${at + 1}`);
    try {
      await one.run(subject);
    } finally {
      await subject.dispose();
    }
  });
}

describe("fake Cloud Hypervisor", () => {
  suite((dir) => makeFakeTarget(dir));
});

describe("QEMU with a real guest", () => {
  suite(async (parent) => {
    const dir = join(parent, "host");
    recordLeftover({ kind: "host", name: dir });
    const imagesDir = join(ROOT, ".torpor/images");
    return await makeTarget({ name: "qemu", driver: "qemu", imagesDir, dir });
  }, QEMU_CASES);
});
