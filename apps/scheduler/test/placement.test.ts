import type { HostRow } from "@torpor/db";
import { describe, expect, test } from "vitest";
import { place, type PlacementRequest } from "../src/placement.ts";

const IMAGE = "a".repeat(64);
const request = (given: Partial<PlacementRequest> = {}): PlacementRequest => ({
  vcpu: 2,
  memoryMib: 512,
  diskMib: 100,
  imageSha256: IMAGE,
  ...given,
});
const host = (id: string, given: Partial<HostRow> = {}): HostRow => ({
  id,
  state: "ready",
  stateBeforeLost: null,
  region: "eu",
  dataPlaneUrl: "",
  labels: {},
  driver: "qemu",
  driverFingerprint: "f1",
  restorableFingerprints: ["f1"],
  agentVersion: "0",
  hasFence: false,
  imageSha256s: [IMAGE],
  vcpuCapacity: 8,
  memoryMibCapacity: 4096,
  diskMibCapacity: 1000,
  vcpuUsed: 0,
  memoryMibUsed: 0,
  diskMibUsed: 0,
  load: null,
  leaseExpiresAt: new Date(),
  lastBeatAt: null,
  registeredAt: new Date(),
  ...given,
});
const placedOn = (hosts: HostRow[], given: Partial<PlacementRequest> = {}) => {
  const placement = place(hosts, request(given));
  return placement.kind === "placed" ? placement.host.id : placement.reasons;
};

describe("S50: every host that cannot take it is counted with its reason, in words that say what is missing", () => {
  test.each([
    ["other_host", {}, { pinnedHostId: "x" }, "are not x, which holds its disk"],
    ["host_not_ready", { state: "cordoned" }, {}, "are cordoned or draining"],
    ["host_not_ready", { state: "draining" }, {}, "are cordoned or draining"],
    ["region", {}, { region: "us" }, "are not in region us"],
    ["image_missing", { imageSha256s: [] }, {}, "do not have its image"],
    ["no_fence", {}, { needsFence: true }, "run no fence (torpor-fence), without which on_host_loss cannot be restore"],
    ["fingerprint", {}, { driverFingerprint: "f2" }, "have not the VMM or CPU that its snapshot needs"],
    ["vcpu", { vcpuUsed: 7 }, {}, "have fewer than 2 vCPU free"],
    ["memory", { memoryMibUsed: 3585 }, {}, "have less than 512 MiB of memory free"],
    ["disk", { diskMibUsed: 901 }, {}, "have less than 100 MiB of disk free"],
  ] as const)("%s", (reason, facts, given, words) => {
    const hosts = [host("a", facts as Partial<HostRow>), host("b", facts as Partial<HostRow>)];
    expect(place(hosts, request(given))).toEqual({
      kind: "rejected",
      hosts: 2,
      reasons: { [reason]: 2 },
      message: `None of 2 hosts can take it: 2 ${words}.`,
    });
  });

  test("different reasons are all named, each host once", () => {
    const hosts = [
      host("a", { state: "cordoned", vcpuUsed: 8 }),
      host("b", { vcpuUsed: 8, memoryMibUsed: 4096 }),
      host("c", { memoryMibUsed: 4096 }),
    ];
    const placement = place(hosts, request());
    expect(placement).toMatchObject({ kind: "rejected", hosts: 3, reasons: { host_not_ready: 1, vcpu: 1, memory: 1 } });
    expect(placement.kind === "rejected" && placement.message).toBe(
      "None of 3 hosts can take it: 1 are cordoned or draining; 1 have fewer than 2 vCPU free; 1 have less than 512 MiB of memory free.",
    );
  });

  test("no host at all", () => {
    expect(place([], request())).toEqual({ kind: "rejected", hosts: 0, reasons: {}, message: "No host has a running lease." });
  });
});

describe("among those that can", () => {
  test("what fits to the last unit is taken", () => {
    expect(placedOn([host("a", { vcpuUsed: 6, memoryMibUsed: 3584, diskMibUsed: 900 })])).toBe("a");
  });

  test("the emptiest is chosen, by what it has least of", () => {
    expect(placedOn([host("a", { memoryMibUsed: 2048 }), host("b", { memoryMibUsed: 1024 }), host("c", { vcpuUsed: 6 })])).toBe("b");
  });

  test("the host that holds the snapshot wins over an emptier one, and needs no further disk", () => {
    const local = host("local", { memoryMibUsed: 3000, diskMibUsed: 1000 });
    expect(placedOn([host("empty"), local], { localHostId: "local" })).toBe("local");
    expect(placedOn([host("empty"), local])).toBe("empty");
  });

  test("a cordoned host gets only what can run nowhere else", () => {
    const cordoned = host("old", { state: "cordoned" });
    expect(placedOn([cordoned, host("new")], { localHostId: "old" })).toBe("new");
    expect(placedOn([cordoned, host("new")], { localHostId: "old", pinnedHostId: "old" })).toBe("old");
  });

  test("a snapshot goes to a host that can restore it, also by an older VMM that is still installed there", () => {
    const updated = host("b", { driverFingerprint: "f3", restorableFingerprints: ["f3", "f2"] });
    expect(placedOn([host("a"), updated], { driverFingerprint: "f2" })).toBe("b");
    expect(
      placedOn([host("a"), host("c", { driverFingerprint: "f3", restorableFingerprints: ["f3"] })], { driverFingerprint: "f2" }),
    ).toEqual({
      fingerprint: 2,
    });
  });

  test("the host that holds a snapshot judges itself, but one that surely can comes first", () => {
    const local = host("local");
    expect(placedOn([local], { localHostId: "local", driverFingerprint: "f2" })).toBe("local");
    const sure = host("sure", { restorableFingerprints: ["f2"], memoryMibUsed: 1000 });
    expect(placedOn([local, sure], { localHostId: "local", driverFingerprint: "f2" })).toBe("local");
    expect(placedOn([host("local", { memoryMibUsed: 2000 }), sure], { localHostId: "local", driverFingerprint: "f2" })).toBe("sure");
  });
});
