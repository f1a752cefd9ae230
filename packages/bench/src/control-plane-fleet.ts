/** The measured fleet: durable as in production, with bench hosts instead of node-agents. */
import { createHash } from "node:crypto";
import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { HostId } from "@torpor/contracts";
import { type Fleet, waitHealthy } from "@torpor/fleet";
import { localProgram, prepareLocalPrograms } from "@torpor/programs";
import { claimPort } from "@torpor/service";
import { type BenchPlace, startBenchFleet } from "./fleet.ts";
import { BENCH_HOSTS } from "./measure/cpu.ts";
import { benchHostId, type BenchHostsSettings } from "./host/settings.ts";

export const TEMPLATE = "bench";
const IMAGE_SHA256 = createHash("sha256").update("an image of bench hosts").digest("hex");
const DEFAULTS = { vcpu: 1, memoryMib: 16, diskMib: 16 };
/** A thousand hosts register within a third of this time on two idle processors. */
const HOSTS_LIMIT_MS = 600_000;
export const EDGE_DOMAIN = "bench.test";

export const EDGES = ["loopback", "domain"] as const;
export interface ControlPlaneShape {
  hosts: number;
  gateways: number;
  schedulers: number;
  /** Address of sandboxes: `loopback` as in a local fleet, `domain` as in a deployment. */
  edge: (typeof EDGES)[number];
  isDurable: boolean;
}

interface ControlPlane {
  fleet: Fleet;
  /**
   * Returns when all hosts are registered. `filled`: number of sandboxes in the filled database.
   */
  startHosts: (filled: number, signal: AbortSignal) => Promise<void>;
  stopHosts: () => Promise<void>;
  close: () => Promise<void>;
}

/** Starts the fleet without hosts, which `startHosts` starts. Throws a line on failure. */
export async function startControlPlane(
  place: BenchPlace,
  shape: ControlPlaneShape,
  signal: AbortSignal,
): Promise<ControlPlane> {
  await prepareLocalPrograms();
  const imagesDir = join(place.dir, "images");
  const guestHosts = Array.from({ length: shape.hosts }, (_, at) => benchHostId(at));
  const { gateways, schedulers, isDurable } = shape;
  const { fleet, close } = await startBenchFleet(
    place,
    {
      imagesDir,
      prepareImages: () => writeImage(imagesDir),
      hosts: 0,
      guestHosts,
      gateways,
      schedulers,
      isDurable,
      driver: "simulated",
      gatewayEnv: { ...NO_BOUNDS, ...(await edgeSettings(shape)), LOG_LEVEL: "warn" },
      schedulerEnv: { LOG_LEVEL: "warn" },
    },
    signal,
  );
  return {
    fleet,
    startHosts: (filled, startSignal) => startHosts(fleet, guestHosts, filled, startSignal),
    stopHosts: () => fleet.detach(BENCH_HOSTS),
    close,
  };
}

/** One load client sends more requests than the limits of a single tenant allow. */
export const NO_BOUNDS = {
  RATE_LIMIT_PER_MINUTE: "0",
  EDGE_RATE_LIMIT_PER_MINUTE: "0",
  REQUESTS_AT_ONCE_PER_KEY: "0",
  CONNECTIONS_PER_ADDRESS: "0",
};

async function edgeSettings({
  edge,
  gateways,
}: ControlPlaneShape): Promise<Record<string, string>> {
  if (edge === "loopback") return {};
  if (gateways > 1) throw new Error("--edge domain is for one gateway: each would need a port");
  return { PUBLIC_DOMAIN: EDGE_DOMAIN, EDGE_DOMAIN_PORT: String((await claimPort()).port) };
}

/** An image for the fleet's template. Its files are placeholders: no driver here reads them. */
export async function writeImage(imagesDir: string): Promise<void> {
  const dir = join(imagesDir, IMAGE_SHA256);
  await mkdir(dir, { recursive: true });
  for (const name of ["kernel", "initrd", "rootfs.ext4"]) await writeFile(join(dir, name), name);
  const texts = { displayName: "Bench", description: "No virtual machine", language: "python" };
  const image = { format: 1, templateName: TEMPLATE, sha256: IMAGE_SHA256, ...texts };
  const whole = { ...image, category: "bench", defaults: DEFAULTS, kernelCmdline: "" };
  await writeFile(join(dir, "image.json"), JSON.stringify(whole));
  await symlink(IMAGE_SHA256, join(imagesDir, TEMPLATE));
}

/**
 * Starts the hosts as a component of the fleet, so that they end with it. Returns when all are
 * registered.
 */
async function startHosts(
  fleet: Fleet,
  hostIds: HostId[],
  filled: number,
  signal: AbortSignal,
): Promise<void> {
  const { port } = await claimPort();
  const settings: BenchHostsSettings = {
    natsUrl: fleet.state.natsUrl,
    healthPort: port,
    template: { name: TEMPLATE, imageSha256: IMAGE_SHA256 },
    hosts: hostIds.map((hostId) => ({ hostId, ...fleet.joinSecrets(hostId) })),
    filled,
  };
  const file = join(fleet.dir, "bench-hosts.json");
  await writeFile(file, JSON.stringify(settings), { mode: 0o600 });
  await fleet.attach({
    name: BENCH_HOSTS,
    role: "node-agent",
    address: "-",
    healthUrl: `http://127.0.0.1:${port}/health`,
    command: process.execPath,
    args: [localProgram("bench-host"), file],
    env: { PATH: process.env["PATH"] ?? "" },
    log: join(fleet.dir, "logs", `${BENCH_HOSTS}.log`),
  });
  await waitHealthy(fleet.component(BENCH_HOSTS), HOSTS_LIMIT_MS, signal);
}
