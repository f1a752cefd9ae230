/** Job queues beside the control plane: the same Postgres, the same run, one job per request. */
import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { claimPort } from "@torpor/service";
import postgres from "postgres";
import {
  type ControlPlaneOptions,
  type OpenControlPlane,
  openControlPlane,
  Steps,
} from "./control-plane.ts";
import { createClient } from "./load/client.ts";
import { jobLoop } from "./load/loops.ts";
import { resultOf } from "./machine.ts";
import { OWN_NAME } from "./measure/statements.ts";
import { checkOpenFiles } from "./open-files.ts";
import { PEERS } from "./peers/jobs.ts";
import type { BenchResult, StepResult } from "./report/result.ts";
import { measureStep } from "./step.ts";

export type PeersOptions = Omit<ControlPlaneOptions, "accepts" | "steps">;

const SERVER = fileURLToPath(new URL("peers/server.ts", import.meta.url));

export async function measurePeers(options: PeersOptions): Promise<BenchResult> {
  const { root, shape, clients, signal, say } = options;
  checkOpenFiles(2 * (shape.hosts + Math.max(...clients)));
  say(`starting a fleet with ${shape.hosts} bench hosts`);
  await using plane = await openControlPlane(options, shape, signal);
  await plane.startHosts(0, signal);
  const own = await new Steps(plane, { ...options, steps: ["closed"], accepts: 0 }).measure();
  await endOthers(plane);
  const steps = [...own];
  for (const peer of Object.keys(PEERS))
    steps.push(...(await measurePeer(plane, peer, own, options)));
  const { hosts, gateways, schedulers, edge, isDurable } = shape;
  const { seconds, warmUpSeconds } = options;
  const settings = { hosts, gateways, schedulers, edge, isDurable, seconds, warmUpSeconds };
  return await resultOf(root, "peers", settings, steps);
}

/** A peer gets the machine and Postgres for itself. */
async function endOthers(plane: OpenControlPlane): Promise<void> {
  await plane.stopHosts();
  for (const { name, role } of plane.fleet.state.components)
    if (role === "gateway" || role === "scheduler") await plane.fleet.kill(name);
}

async function measurePeer(
  { fleet, sql }: OpenControlPlane,
  peer: string,
  own: readonly StepResult[],
  options: PeersOptions,
): Promise<StepResult[]> {
  const { signal, say } = options;
  const database = `peer_${peer.replaceAll(/[^a-z]/g, "_")}`;
  await sql.unsafe(`CREATE DATABASE ${database}`);
  const url = new URL(fleet.state.databaseUrl);
  url.pathname = `/${database}`;
  const { port } = await claimPort();
  const address = `127.0.0.1:${port}`;
  await fleet.attach({
    name: peer,
    // In front of Postgres like the gateway, so its processor time is reported as the gateway's.
    role: "gateway",
    address,
    healthUrl: `http://${address}/health`,
    command: process.execPath,
    args: [SERVER, peer, String(port), `${url.href}?application_name=${encodeURIComponent(peer)}`],
    env: { PATH: process.env["PATH"] ?? "" },
    log: join(fleet.dir, "logs", `${database}.log`),
  });
  await fleet.waitHealthy(peer, signal);
  const connection = { application_name: OWN_NAME };
  const inPeer = postgres(String(url), { max: 2, onnotice: () => {}, connection });
  const client = createClient({ url: `http://${address}`, apiKey: "" });
  const results: StepResult[] = [];
  try {
    for (const clients of options.clients) {
      const name = `${peer}-${clients}`;
      say(`${name}, ${options.seconds} s`);
      const prepare = () => jobLoop(client.call, clients);
      const plan = { name, unit: "job", clients, prepare };
      const step = await measureStep({ fleet, sql: inPeer }, plan, options, signal);
      const ours = own.find((one) => one.clients === clients)?.perSecond ?? Number.NaN;
      results.push({ ...step, extra: { timesTorpor: step.perSecond / ours } });
    }
  } finally {
    client.close();
    await inPeer.end({ timeout: 1 });
  }
  await fleet.detach(peer);
  return results;
}
