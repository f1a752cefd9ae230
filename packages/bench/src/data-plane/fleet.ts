/** A fleet of simulated hosts, and one sandbox whose port leads to the application outside it. */
import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { type Fleet, listVmProcesses } from "@torpor/fleet";
import { prepareLocalPrograms } from "@torpor/programs";
import { claimPort } from "@torpor/service";
import { EDGE_DOMAIN, NO_BOUNDS, TEMPLATE, writeImage } from "../control-plane-fleet.ts";
import { type BenchFleet, type BenchPlace, startBenchFleet } from "../fleet.ts";
import { createClient } from "../load/client.ts";
import { failureOf } from "../load/sandboxes.ts";
import { APPLICATION } from "../measure/cpu.ts";
import { openedBy, postTo, toPort, type Way } from "./ways.ts";

const APPLICATION_FILE = fileURLToPath(new URL("application.ts", import.meta.url));
/** Port of the sandbox; the simulated guest connects it to the application on this machine. */
const GUEST_PORT = 3_000;

export interface DataPlane {
  fleet: Fleet;
  /** Two ways to the same server: directly, and through the edge, its host and a guest. */
  ways: Record<"direct" | "edge", Way>;
  /** Processes of the guest. */
  guestPids: number[];
  close: () => Promise<void>;
}

/**
 * Starts hosts with the simulated driver and an edge with a domain, without the limits of a tenant.
 * Throws a line on failure.
 */
export async function startSimulated(
  place: BenchPlace,
  { hosts, env = {} }: { hosts: number; env?: Record<string, string> },
  signal: AbortSignal,
): Promise<BenchFleet & { edgePort: number }> {
  await prepareLocalPrograms();
  const imagesDir = join(place.dir, "images");
  const edgePort = (await claimPort()).port;
  const edge = { PUBLIC_DOMAIN: EDGE_DOMAIN, EDGE_DOMAIN_PORT: String(edgePort) };
  const options = {
    imagesDir,
    prepareImages: () => writeImage(imagesDir),
    hosts,
    driver: "simulated",
    hostEnv: { ...env, LOG_LEVEL: "warn" },
    gatewayEnv: { ...NO_BOUNDS, ...edge, ...env, LOG_LEVEL: "warn" },
    schedulerEnv: { ...env, LOG_LEVEL: "warn" },
  } as const;
  return { ...(await startBenchFleet(place, options, signal)), edgePort };
}

/** Throws a line on failure. */
export async function startDataPlane(place: BenchPlace, signal: AbortSignal): Promise<DataPlane> {
  const application = (await claimPort()).port;
  const { fleet, edgePort, close } = await startSimulated(place, { hosts: 1 }, signal);
  try {
    await startApplication(fleet, application, signal);
    const edge = await openSandbox(fleet, edgePort, application);
    const guestPids = (await listVmProcesses(fleet.dir)).map(({ pid }) => pid);
    const ways = { direct: { port: application, headers: {} }, edge };
    return { fleet, ways, guestPids, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function startApplication(fleet: Fleet, port: number, signal: AbortSignal): Promise<void> {
  const address = `127.0.0.1:${port}`;
  await fleet.attach({
    name: APPLICATION,
    role: "gateway",
    address,
    healthUrl: `http://${address}/`,
    command: process.execPath,
    args: [APPLICATION_FILE, String(port)],
    env: { PATH: process.env["PATH"] ?? "" },
    log: join(fleet.dir, "logs", `${APPLICATION}.log`),
  });
  await fleet.waitHealthy(APPLICATION, signal);
}

/** Creates a sandbox whose port is the application's. Returns the way to it. */
async function openSandbox(fleet: Fleet, edge: number, application: number): Promise<Way> {
  const client = createClient(fleet.state);
  const body = { template_name: TEMPLATE, preview_access: "token" };
  const made = await client.call("POST", "/v1/sandboxes", { body });
  client.close();
  if (made.status !== 201)
    throw new Error(`a sandbox could not be created: ${failureOf(made)} ${made.text}`);
  const way = openedBy(made.text, edge);
  const code = JSON.stringify({ code: `port_${GUEST_PORT} = ${application}` });
  const opened = await postTo(way, "/execute", code);
  if (opened.status !== 200)
    throw new Error(`a port could not be opened: ${failureOf(opened)} ${opened.text}`);
  return toPort(way, GUEST_PORT);
}
