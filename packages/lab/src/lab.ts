/**
 * `up` and `down` of the lab host: a machine is booted, made a host by the production install
 * script, and joins the fleet as one more host.
 */
import { join } from "node:path";
import type { Fleet, Health } from "@torpor/fleet";
import { claimPorts, isAlive, waitUntilGone } from "@torpor/service";
import {
  buildMachine,
  type LabPorts,
  type LabRecord,
  machineComponent,
  makeDataDisk,
  readRecord,
  writeRecord,
} from "./machine.ts";
import { LAB_HOST_ID, type LabOptions } from "./options.ts";
import { installCommand, makePayload } from "./payload.ts";
import { runInLab, waitForSsh } from "./ssh.ts";

const SSH_LIMIT_MS = 240_000;
const POWER_OFF_LIMIT_MS = 30_000;

/** Returns when the fleet has the host. A failure ends the machine; its data disk stays. */
export async function labUp(
  options: LabOptions,
  fleet: Fleet,
  say: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  say("building the machine (from cache if nothing changed; else a minute or two)");
  const machineDir = await buildMachine(options, signal);
  const record: LabRecord = { ports: await choosePorts(), machineDir, driver: options.driver };
  const payload = await makePayload(options, fleet, record.ports, signal);
  const files = {
    data: await makeDataDisk(options.dir),
    payload,
    log: join(options.dir, "console.log"),
  };
  say("booting it");
  // Nothing is undone when this throws, or written down: one that another command has attached
  // meanwhile is not ours.
  await fleet.attach(machineComponent(options, record, files));
  try {
    await writeRecord(options.dir, record);
    const { process: identity } = fleet.component(LAB_HOST_ID);
    await waitForSsh(
      record,
      () => identity !== undefined && isAlive(identity),
      SSH_LIMIT_MS,
      signal,
    );
    say(
      "installing the node-agent (infra/host/install.sh; with an image that is new to it: some minutes)",
    );
    const { code, output } = await runInLab(record, installCommand(options), signal);
    if (code !== 0)
      throw new Error(
        `the installation failed: ${output.trim().split("\n").slice(-5).join(" | ")}`,
      );
    say(
      "waiting for the host to register (it makes a golden snapshot of an image that is new to it first)",
    );
    await fleet.waitHealthy(LAB_HOST_ID, signal);
  } catch (cause) {
    const last = await agentLog(record);
    await fleet.detach(LAB_HOST_ID);
    throw new Error(
      `the lab host did not come up: ${cause instanceof Error ? cause.message : String(cause)}${last}`,
      { cause },
    );
  }
}

/** Shuts the machine down in order, so that its disk is whole, and takes it out of the fleet. */
export async function labDown(dir: string, fleet: Fleet): Promise<void> {
  const record = await readRecord(dir);
  const identity = labComponent(fleet)?.process;
  if (record !== undefined && identity !== undefined && isAlive(identity)) {
    await runInLab(record, "systemctl poweroff", AbortSignal.timeout(POWER_OFF_LIMIT_MS)).catch(
      () => {},
    );
    // One that does not listen is ended like by a power cut, which a host has to bear as well.
    await waitUntilGone(identity, POWER_OFF_LIMIT_MS);
  }
  await fleet.detach(LAB_HOST_ID);
}

const labComponent = (fleet: Fleet) =>
  fleet.state.components.find(({ name }) => name === LAB_HOST_ID);

/** The machine that runs; throws one line that says what to do when there is none. */
export async function runningLab(dir: string, fleet: Fleet | undefined): Promise<LabRecord> {
  const record = await readRecord(dir);
  const identity = fleet === undefined ? undefined : labComponent(fleet)?.process;
  if (record === undefined || identity === undefined || !isAlive(identity))
    throw new Error("the lab host is down: ./torpor lab up starts it");
  return record;
}

export async function labHealth(fleet: Fleet): Promise<Health> {
  const all = await fleet.health();
  return all.find(({ component }) => component.name === LAB_HOST_ID)?.health ?? { kind: "down" };
}

/** Asked before anything is built or started. Throws one line that says what to do. */
export function requireHypervisor({
  driver,
  cloudHypervisorBin,
}: Pick<LabOptions, "driver" | "cloudHypervisorBin">): void {
  if (driver === "cloud-hypervisor" && cloudHypervisorBin === undefined)
    throw new Error(
      "CLOUD_HYPERVISOR_BIN is not set: let it name a cloud-hypervisor 53 binary for x86_64 (docs/operate/hosts.md says where releases are), or use --driver simulated",
    );
}

/** The end of what the agent said, for a message; nothing when the machine does not answer. */
async function agentLog(record: LabRecord): Promise<string> {
  const limit = AbortSignal.timeout(10_000);
  const script = "journalctl --unit torpor-node-agent --output cat --lines 3 --no-pager";
  const said = await runInLab(record, script, limit).catch(() => undefined);
  return said === undefined || said.code !== 0
    ? ""
    : `; the node-agent said: ${said.output.trim()}`;
}

async function choosePorts(): Promise<LabPorts> {
  const [ssh = 0, health = 0, dataPlane = 0] = await claimPorts(3);
  return { ssh, health, dataPlane };
}
