/** The driver suite on the fake Cloud Hypervisor. */
import { describe } from "vitest";
import { makeFakeTarget } from "./fake-target.ts";
import { driverSuite } from "./suite.ts";

describe("fake Cloud Hypervisor", () => {
  driverSuite((dir) => makeFakeTarget(dir));
});
