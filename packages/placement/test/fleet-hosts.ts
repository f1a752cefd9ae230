/** Hosts and placement requests for tests. */
import type { PlacementHost } from "@torpor/db";
import type { PlacementRequest } from "../src/index.ts";

export type FleetHost = PlacementHost;

export const hostId = (name: string) => name as PlacementHost["id"];

const IMAGE = "a".repeat(64);

export const aRequest = (given: Partial<PlacementRequest> = {}): PlacementRequest => ({
  vcpu: 2,
  memoryMib: 512,
  diskMib: 100,
  imageSha256: IMAGE,
  region: "eu",
  ...given,
});

export const aFleetHost = (id: string, given: Partial<FleetHost> = {}): FleetHost => ({
  id: hostId(id),
  state: "ready",
  region: "eu",
  dataPlaneUrl: "",
  ticketKey: null,
  commandKey: null,
  labels: {},
  restorableFingerprints: ["f1"],
  hasFence: false,
  imageSha256s: [IMAGE],
  vcpuCapacity: 8,
  memoryMibCapacity: 4096,
  diskMibCapacity: 1000,
  vcpuUsed: 0,
  memoryMibUsed: 0,
  diskMibUsed: 0,
  startsAtOnce: null,
  startsUnderWay: 0,
  registeredAt: new Date(),
  ...given,
});
