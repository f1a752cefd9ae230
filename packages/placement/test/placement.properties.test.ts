/**
 * Placement over random fleets and requests, compared with a naive implementation of the same
 * decision.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { SandboxRow, StoredSnapshotRow } from "@torpor/db";
import { FleetView, goesHome, requestToReturn, type Rejection } from "../src/index.ts";
import { place, PLACEMENT_POLICIES, type PlacementRequest, rank } from "../src/index.ts";
import { aFleetHost, aRequest, type FleetHost, hostId } from "./fleet-hosts.ts";

const HOST_IDS = ["a", "b", "c", "d", "e", "f"].map(hostId);
const policies = fc.constantFrom(...PLACEMENT_POLICIES);
const labels = fc.dictionary(fc.constantFrom("zone", "gpu"), fc.constantFrom("x", "y"), {
  maxKeys: 2,
});
const fingerprint = fc.constantFrom("f1", "f2");
const host = (id: FleetHost["id"]) =>
  fc.record({
    id: fc.constant(id),
    state: fc.constantFrom(
      "ready" as const,
      "ready" as const,
      "ready" as const,
      "cordoned" as const,
      "draining" as const,
    ),
    region: fc.constantFrom("eu", "eu", "eu", "us"),
    labels,
    restorableFingerprints: fc.uniqueArray(fingerprint),
    hasFence: fc.boolean(),
    imageSha256s: fc.uniqueArray(fc.constantFrom("i1", "i2"), { minLength: 1 }),
    vcpuUsed: fc.integer({ min: 0, max: 8 }),
    memoryMibUsed: fc.integer({ min: 0, max: 4096 }),
    diskMibUsed: fc.integer({ min: 0, max: 1000 }),
    startsAtOnce: fc.option(fc.integer({ min: 1, max: 4 })),
    startsUnderWay: fc.integer({ min: 0, max: 1000 }),
  });
const hosts: fc.Arbitrary<FleetHost[]> = fc
  .subarray(HOST_IDS)
  .chain((ids) => fc.tuple(...ids.map(host)))
  .map((facts) => facts.map((given) => aFleetHost(given.id, given)));
const optional = <T>(of: fc.Arbitrary<T>) => fc.option(of, { nil: undefined });
const requests: fc.Arbitrary<PlacementRequest> = fc
  .record({
    vcpu: fc.integer({ min: 1, max: 4 }),
    memoryMib: fc.integer({ min: 1, max: 1024 }),
    diskMib: fc.integer({ min: 0, max: 300 }),
    imageSha256: fc.constantFrom("i1", "i2"),
    region: fc.constantFrom("eu", "eu", "us"),
    labels: optional(labels),
    needsFence: optional(fc.boolean()),
    occupiedHostIds: optional(fc.subarray(HOST_IDS, { maxLength: 2 })),
    localHostId: optional(fc.constantFrom(...HOST_IDS)),
    pinnedHostId: fc.option(fc.constantFrom(...HOST_IDS), { nil: undefined, freq: 1 }),
    driverFingerprint: optional(fingerprint),
  })
  .map(aRequest);

/** The naive decision about one host. */
function rejection(host: FleetHost, request: PlacementRequest): Rejection | undefined {
  const { pinnedHostId, localHostId, driverFingerprint } = request;
  const [isLocal, isPinned] = [host.id === localHostId, host.id === pinnedHostId];
  const hasAll = Object.entries(request.labels ?? {}).every(
    ([name, value]) => host.labels[name] === value,
  );
  const checks: [Rejection, boolean][] = [
    ["other_host", pinnedHostId === undefined || isPinned],
    ["host_not_ready", isPinned || host.state === "ready"],
    ["no_fence", request.needsFence !== true || host.hasFence],
    ["region", host.region === request.region],
    ["labels", hasAll],
    ["image_missing", host.imageSha256s.includes(request.imageSha256)],
    [
      "fingerprint",
      isLocal ||
        driverFingerprint === undefined ||
        host.restorableFingerprints.includes(driverFingerprint),
    ],
    ["anti_affinity", isLocal || request.occupiedHostIds?.includes(host.id) !== true],
    ["vcpu", host.vcpuUsed + request.vcpu <= host.vcpuCapacity],
    ["memory", host.memoryMibUsed + request.memoryMib <= host.memoryMibCapacity],
    ["disk", isLocal || host.diskMibUsed + request.diskMib <= host.diskMibCapacity],
  ];
  return checks.find(([, holds]) => !holds)?.[0];
}

describe("for any fleet, request and policy", () => {
  test("every host is counted once, under the first reason that holds, and a host is found if there is one", () => {
    fc.assert(
      fc.property(hosts, requests, policies, (all, request, policy) => {
        const judged = all.map((one) => rejection(one, request));
        const reasons: Partial<Record<Rejection, number>> = {};
        for (const reason of judged)
          if (reason !== undefined) reasons[reason] = (reasons[reason] ?? 0) + 1;
        const fitting = all.filter((_, at) => judged[at] === undefined).map(({ id }) => id);
        const placement = place(new FleetView(all), request, policy);
        expect(placement.reasons).toEqual(reasons);
        expect(placement.kind).toBe(fitting.length > 0 ? "placed" : "rejected");
        if (placement.kind === "placed") expect(fitting).toContain(placement.host.id);
        const ranking = rank(new FleetView(all), request, policy, HOST_IDS.length);
        expect(ranking.candidates.map(({ hostId }) => hostId).toSorted()).toEqual(
          fitting.toSorted(),
        );
        expect(ranking.candidates[0]?.hostId).toBe(
          placement.kind === "placed" ? placement.host.id : undefined,
        );
      }),
      { numRuns: 500 },
    );
  });

  test("what goes home without being placed, local-first would have placed there, among any others", async () => {
    let timesHome = 0;
    const kinds = fc.constantFrom("resume" as const, "start" as const);
    const stored = fc.constantFrom(null, "key");
    await fc.assert(
      fc.asyncProperty(
        hosts,
        requests,
        kinds,
        stored,
        fingerprint,
        async (all, request, kind, storeKey, driverFingerprint) => {
          const home = all.find(({ id }) => id === "a");
          if (home === undefined) return;
          // The sandbox has run there, so in most cases it still may.
          const { vcpu, memoryMib, diskMib, labels, needsFence } = request;
          const { region, imageSha256s } =
            needsFence === true ? { ...home, region: request.region } : home;
          const imageSha256 = imageSha256s[0] ?? "";
          const [placementLabels, onHostLoss] = [
            labels ?? {},
            home.hasFence ? ("restore" as const) : ("wait" as const),
          ];
          const where = { hostId: hostId("a"), region, imageSha256, placementLabels, onHostLoss };
          const sandbox = {
            vcpu,
            memoryMib,
            diskMib,
            id: "s" as SandboxRow["id"],
            organizationId: 1,
            antiAffinity: null,
            ...where,
          };
          const snapshot = { storeKey, driverFingerprint } as StoredSnapshotRow;
          const isHome = goesHome(home, { kind, sandbox, snapshot });
          if (
            home.state !== "ready" ||
            (kind === "resume" && !home.restorableFingerprints.includes(driverFingerprint))
          )
            expect(isHome).toBe(false);
          if (!isHome) return;
          timesHome += 1;
          // Without an anti-affinity key, no row is read.
          const asked = await requestToReturn(undefined as never, {
            kind,
            sandbox,
            snapshot,
            origin: home,
          });
          const placement = place(new FleetView(all), asked, "local-first");
          expect(placement.kind === "placed" && placement.host.id).toBe("a");
        },
      ),
      { numRuns: 500 },
    );
    expect(timesHome).toBeGreaterThan(10);
  });

  test("one decision leaves nothing behind for the next: any order of requests gives each the same answer", () => {
    fc.assert(
      fc.property(
        hosts,
        fc.array(requests, { minLength: 2, maxLength: 5 }),
        policies,
        (all, several, policy) => {
          const shared = new FleetView(all);
          const together = several.map((request) => place(shared, request, policy));
          const alone = several.map((request) => place(new FleetView(all), request, policy));
          expect(together).toEqual(alone);
        },
      ),
      { numRuns: 100 },
    );
  });

  test("a workload placed one by one holds what it asked for and no host more than it has; what was refused fits nowhere", () => {
    fc.assert(
      fc.property(
        hosts,
        fc.array(requests, { maxLength: 40 }),
        policies,
        (all, workload, policy) => {
          const fleet = new FleetView(all);
          const rows = new Map(all.map((one) => [one.id, { ...one }]));
          for (const request of workload) {
            const placement = place(fleet, request, policy);
            if (placement.kind === "rejected") {
              for (const row of rows.values()) expect(rejection(row, request)).toBeDefined();
              continue;
            }
            const { id } = placement.host;
            const held = {
              vcpu: request.vcpu,
              memoryMib: request.memoryMib,
              diskMib: id === request.localHostId ? 0 : request.diskMib,
            };
            fleet.hold(id, held);
            const row = rows.get(id);
            if (row === undefined) throw new Error(`placed on ${id}, which is not in the fleet`);
            row.vcpuUsed += held.vcpu;
            row.memoryMibUsed += held.memoryMib;
            row.diskMibUsed += held.diskMib;
            expect(row.vcpuUsed).toBeLessThanOrEqual(row.vcpuCapacity);
            expect(row.memoryMibUsed).toBeLessThanOrEqual(row.memoryMibCapacity);
            expect(row.diskMibUsed).toBeLessThanOrEqual(row.diskMibCapacity);
          }
        },
      ),
      { numRuns: 100 },
    );
  });

  test("local-first: where it is, whenever that host can take it and surely can restore it", () => {
    fc.assert(
      fc.property(hosts, requests, (all, request) => {
        const local = all.find(({ id }) => id === request.localHostId);
        const { driverFingerprint } = request;
        fc.pre(local !== undefined && rejection(local, request) === undefined);
        fc.pre(
          driverFingerprint === undefined ||
            local?.restorableFingerprints.includes(driverFingerprint) === true,
        );
        expect(place(new FleetView(all), request, "local-first")).toMatchObject({
          kind: "placed",
          host: { id: request.localHostId },
        });
      }),
      { numRuns: 100 },
    );
  });
});
