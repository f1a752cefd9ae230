/**
 * A control plane with many sandboxes at rest: their cost, and the capacity that is left for active
 * ones.
 */
import type { ControlPlaneShape } from "./control-plane-fleet.ts";
import { checkSteps, type ControlPlaneOptions, openControlPlane, Steps } from "./control-plane.ts";
import { resultOf } from "./machine.ts";
import { checkOpenFiles } from "./open-files.ts";
import type { BenchResult } from "./report/result.ts";
import { countDisagreements, fill, gatewaysOf } from "./scale/fill.ts";
import { wait } from "./step.ts";

export interface ScaleOptions extends Omit<ControlPlaneOptions, "accepts"> {
  shape: ControlPlaneShape;
  sandboxesPerHost: number;
  /** Wait after the hosts have reconnected with all their sandboxes. */
  quietSeconds: number;
}

/** Each sandbox has its own edge address in 127.64.0.0/10. */
const MAX_SANDBOXES = 4_000_000;
const ACCEPTS = 400;

/** Throws a line if the machine cannot have that many sandboxes. */
export async function measureScale(options: ScaleOptions): Promise<BenchResult> {
  const { root, shape, sandboxesPerHost, quietSeconds, signal, say } = options;
  const sandboxes = shape.hosts * sandboxesPerHost;
  if (sandboxes > MAX_SANDBOXES)
    throw new Error(`${sandboxes} sandboxes are too many: ${MAX_SANDBOXES} at most`);
  checkSteps(options.steps);
  const served = shape.edge === "loopback" ? sandboxes : 0;
  checkOpenFiles(2 * (shape.hosts + Math.max(...options.clients)) + served);
  say(`starting a fleet with ${shape.hosts} bench hosts`);
  await using plane = await openControlPlane(options, shape, signal);
  const { sql } = plane;
  await plane.startHosts(0, signal);
  await plane.stopHosts();
  const progress = (done: number) => say(`filled in ${done} of ${sandboxes} sandboxes`);
  await fill(sql, { hosts: shape.hosts, sandboxes, signal, onProgress: progress });
  await plane.startHosts(sandboxes, signal);
  say("restarting the gateway");
  const gatewayRestartSeconds = await restartGateways(plane, signal);
  say(`letting the hosts show what they have, ${quietSeconds} s`);
  await wait(quietSeconds, signal);
  const steps = await new Steps(plane, { ...options, accepts: ACCEPTS }).measure();
  const findings = await countDisagreements(sql);
  const [idle] = steps;
  if (idle !== undefined) idle.extra = { ...idle.extra, gatewayRestartSeconds, findings };
  const { hosts, gateways, schedulers, edge, isDurable } = shape;
  const settings = { hosts, gateways, schedulers, edge, isDurable, sandboxesPerHost };
  const { seconds, warmUpSeconds } = options;
  return await resultOf(root, "scale", { ...settings, seconds, warmUpSeconds }, steps);
}

async function restartGateways(
  { fleet }: Awaited<ReturnType<typeof openControlPlane>>,
  signal: AbortSignal,
): Promise<number> {
  const startedAt = performance.now();
  for (const name of gatewaysOf(fleet)) await fleet.restart(name, signal);
  return (performance.now() - startedAt) / 1_000;
}
