import type { HostId } from "@torpor/contracts";
import type { DrainProgress } from "@torpor/db";
import type { PlacementHost } from "@torpor/placement";
import { describe, expect, test } from "vitest";
import { type Need, unplaceableFrom } from "../src/hosts/drain-check.ts";
import { drainView } from "../src/views/host.ts";

const IMAGE = "a".repeat(64);
const host = (id: string, given: Partial<PlacementHost> = {}) =>
  ({
    id,
    state: "ready",
    region: "eu",
    labels: { gpu: "a100" },
    hasFence: false,
    restorableFingerprints: ["f1"],
    imageSha256s: [IMAGE],
    vcpuCapacity: 8,
    memoryMibCapacity: 4096,
    diskMibCapacity: 4096,
    vcpuUsed: 0,
    memoryMibUsed: 0,
    diskMibUsed: 0,
    startsAtOnce: null,
    startsUnderWay: 0,
    ...given,
  }) as PlacementHost;
const need = (given: Partial<Need> = {}): Need => ({
  organizationId: 1,
  imageSha256: IMAGE,
  region: "eu",
  vcpu: 2,
  memoryMib: 512,
  diskMib: 512,
  placementLabels: {},
  antiAffinity: null,
  onHostLoss: "wait",
  occupiedHostIds: [],
  runs: true,
  snapshotFingerprint: null,
  count: 3,
  ...given,
});
const here = host("here");
const unplaceable = (needs: Need[], others: PlacementHost[]) =>
  unplaceableFrom({ id: "here" as HostId, driverFingerprint: "f1" }, needs, [here, ...others]);

describe("the last host for its sandboxes", () => {
  test("is not last when another ready host could take them, full or not", () => {
    expect(unplaceable([need()], [host("there", { memoryMibUsed: 4096 })])).toEqual([]);
    expect(unplaceable([], []), "nor when it has none").toEqual([]);
  });

  test("is last when there is no other ready host", () => {
    expect(unplaceable([need()], [])).toMatchObject([
      { sandboxes: 3, hosts: 0, message: expect.stringMatching(/There is no other host/) },
    ]);
    expect(unplaceable([need()], [host("there", { state: "cordoned" })])).toMatchObject([
      {
        hosts: 1,
        reasons: { host_not_ready: 1 },
        message: expect.stringMatching(/1 are cordoned/),
      },
    ]);
  });

  test.each<[reason: string, Partial<PlacementHost>, Partial<Need>, RegExp]>([
    ["region", { region: "us" }, {}, /1 are not in region eu/],
    [
      "labels",
      { labels: {} },
      { placementLabels: { gpu: "a100" } },
      /1 have not the labels gpu=a100/,
    ],
    ["no_fence", {}, { onHostLoss: "restore" }, /1 run no fence/],
    ["image_missing", { imageSha256s: [] }, {}, /1 do not have its image/],
    ["fingerprint", { restorableFingerprints: ["f2"] }, {}, /1 have not the VMM or CPU/],
    [
      "anti_affinity",
      {},
      { antiAffinity: "web", occupiedHostIds: ["there" as HostId] },
      /same anti-affinity key/,
    ],
    ["memory", { memoryMibCapacity: 511 }, {}, /less than 512 MiB of memory/],
  ])("says why none can, as placement does: %s", (reason, given, needs, message) => {
    expect(unplaceable([need(needs)], [host("there", given)])).toMatchObject([
      { reasons: { [reason]: 1 }, message: expect.stringMatching(message) },
    ]);
    expect(
      unplaceable([need(needs)], [host("there", given), host("other", { hasFence: true })]),
      "another can",
    ).toEqual([]);
  });

  test("of different needs names those that nobody meets", () => {
    const needs = [need(), need({ region: "us", count: 1 }), need({ runs: false })];
    expect(unplaceable(needs, [host("there")])).toMatchObject([{ sandboxes: 1, region: "us" }]);
  });

  test("what is paused needs what its own snapshot needs, what is stopped no VMM at all", () => {
    const there = [host("there", { restorableFingerprints: ["f2"] })];
    expect(
      unplaceable([need({ runs: false, snapshotFingerprint: "f2" }), need({ runs: false })], there),
    ).toEqual([]);
    expect(unplaceable([need({ runs: false, snapshotFingerprint: "f1" })], there)).toMatchObject([
      { reasons: { fingerprint: 1 } },
    ]);
  });
});

describe("the progress of a drain", () => {
  const STARTED = new Date("2030-01-01T00:00:00Z");
  const progress = (
    given: Partial<DrainProgress>,
    drain: Partial<DrainProgress["drain"]> = {},
  ): DrainProgress => ({
    drain: {
      id: 1,
      hostId: "here" as HostId,
      status: "active",
      endsAs: null,
      maxParallel: 2,
      maxBytesPerSecond: 10 * 1024 ** 2,
      deadlineAt: null,
      requestedBy: "api-key:1",
      startedAt: STARTED,
      endedAt: null,
      measuredBytes: 0,
      measuredAt: STARTED,
      bytesPerSecond: null,
      ...drain,
    },
    total: 10,
    ended: {},
    working: 2,
    failed: 0,
    bytesDone: 0,
    bytesTotal: 0,
    bytesEstimated: 0,
    failures: [],
    ...given,
  });
  const MIB = 1024 ** 2;

  test("counts what is left", () => {
    expect(drainView(progress({ ended: { moved: 3, released: 1, gone: 1 } }))).toMatchObject({
      sandboxes: { total: 10, left: 5, moving: 2, moved: 3, released: 1, gone: 1 },
      budget: { max_parallel: 2, max_mib_per_second: 10, deadline: null },
    });
  });

  test.each<[what: string, rate: number | null, max: number | null, eta: number | null]>([
    ["nothing has been copied", null, null, null],
    ["next to nothing is copied", 100, null, null],
    ["as fast as lately", 4 * MIB, null, 100],
    ["rounded up", 399 * MIB, null, 2],
    ["no faster than the budget", 400 * MIB, 5 * MIB, 80],
    ["slower than the budget", 2 * MIB, 5 * MIB, 200],
  ])(
    "says when it is done by the bytes that are left: %s",
    (_, bytesPerSecond, maxBytesPerSecond, eta) => {
      const bytes = { bytesDone: 100 * MIB, bytesTotal: 500 * MIB, bytesEstimated: 300 * MIB };
      expect(drainView(progress(bytes, { bytesPerSecond, maxBytesPerSecond }))).toMatchObject({
        bytes: {
          done: 100 * MIB,
          total: 500 * MIB,
          estimated: 300 * MIB,
          per_second: bytesPerSecond,
        },
        eta_seconds: eta,
      });
      expect(
        drainView(progress({ ...bytes, ended: { moved: 10 } }, { bytesPerSecond })),
        "nothing is left",
      ).toMatchObject({
        eta_seconds: 0,
      });
      expect(
        drainView(progress(bytes, { bytesPerSecond, status: "undoing" })),
        "it is given up",
      ).toMatchObject({ eta_seconds: null });
    },
  );

  test("is null for a host that was never drained", () => {
    expect(drainView(undefined)).toBeNull();
  });
});
