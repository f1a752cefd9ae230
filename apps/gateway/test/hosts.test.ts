import type { DrainProgress, HostRow, SandboxNeed } from "@torpor/db";
import { describe, expect, test } from "vitest";
import { strandedBy } from "../src/drain-check.ts";
import { drainView } from "../src/views/host.ts";

const IMAGE = "a".repeat(64);
const host = (id: string, given: Partial<HostRow> = {}) =>
  ({
    id,
    state: "ready",
    region: "eu",
    driverFingerprint: "f1",
    restorableFingerprints: ["f1"],
    imageSha256s: [IMAGE],
    vcpuCapacity: 8,
    memoryMibCapacity: 4096,
    diskMibCapacity: 4096,
    ...given,
  }) as HostRow;
const need = (given: Partial<SandboxNeed> = {}): SandboxNeed => ({
  imageSha256: IMAGE,
  region: "eu",
  vcpu: 2,
  memoryMib: 512,
  diskMib: 512,
  runs: true,
  count: 3,
  ...given,
});
const here = host("here");
const stranded = (needs: SandboxNeed[], others: HostRow[]) => strandedBy(here, needs, [here, ...others]);

describe("the last host for its sandboxes", () => {
  test("is not last when another ready host could take them, full or not", () => {
    expect(stranded([need()], [host("there", { memoryMibUsed: 4096 })])).toEqual([]);
    expect(stranded([], []), "nor when it has none").toEqual([]);
  });

  test("is last when there is no other ready host", () => {
    expect(stranded([need()], [])).toMatchObject([{ sandboxes: 3, missing: {}, message: expect.stringMatching(/no other ready host/) }]);
    expect(stranded([need()], [host("there", { state: "cordoned" })])).toHaveLength(1);
  });

  test.each<[string, Partial<HostRow>, object, RegExp]>([
    ["region", { region: "us" }, { region: 1 }, /1 not in region eu/],
    ["image", { imageSha256s: [] }, { image: 1 }, /1 without image aaaaaaaaaaaa/],
    ["VMM", { restorableFingerprints: ["f2"] }, { fingerprint: 1 }, /cannot restore/],
    ["size", { memoryMibCapacity: 511 }, { size: 1 }, /smaller than 2 vCPU, 512 MiB/],
  ])("says which is missing: the %s", (_, given, missing, message) => {
    expect(stranded([need()], [host("there", given)])).toMatchObject([{ missing, message: expect.stringMatching(message) }]);
  });

  test("of different needs names those that nobody meets", () => {
    const needs = [need(), need({ region: "us", count: 1 }), need({ runs: false })];
    expect(stranded(needs, [host("there")])).toMatchObject([{ sandboxes: 1, region: "us" }]);
    expect(
      stranded([need({ runs: false })], [host("there", { restorableFingerprints: [] })]),
      "what stands still needs no VMM now",
    ).toEqual([]);
  });
});

describe("the progress of a drain", () => {
  const STARTED = new Date("2030-01-01T00:00:00Z");
  const progress = (given: Partial<DrainProgress>): DrainProgress => ({
    drain: {
      id: 1,
      hostId: "here",
      status: "active",
      endsAs: null,
      maxParallel: 2,
      maxBytesPerSecond: 10 * 1024 ** 2,
      deadlineAt: null,
      requestedBy: "api-key:1",
      startedAt: STARTED,
      endedAt: null,
    },
    total: 10,
    ended: {},
    working: 2,
    failed: 0,
    bytesDone: 0,
    bytesTotal: 0,
    failures: [],
    ...given,
  });
  const after = (seconds: number) => new Date(STARTED.getTime() + seconds * 1000);

  test("counts what is left, and guesses the rest by the pace so far", () => {
    expect(drainView(progress({}), after(30))).toMatchObject({ sandboxes: { left: 10, moving: 2 }, eta_seconds: null });
    expect(drainView(progress({ ended: { moved: 3, released: 1, gone: 1 } }), after(60))).toMatchObject({
      sandboxes: { total: 10, left: 5, moved: 3, released: 1, gone: 1 },
      eta_seconds: 60,
      budget: { max_parallel: 2, max_mib_per_second: 10, deadline: null },
    });
  });

  test("is null for a host that was never drained", () => {
    expect(drainView(undefined, after(0))).toBeNull();
  });
});
