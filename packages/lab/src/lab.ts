/**
 * `up` and `down` of the lab host: boots a machine, makes it a host by the production install
 * script, and adds it to the fleet.
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

/** Returns when the host is in the fleet. A failure ends the machine; its data disk stays. */
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
  // Outside the `try`, and before the record is written: when this throws, the running machine
  // belongs to another command.
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

/**
 * Shuts the machine down in order, so that its disk is consistent, and removes it from the fleet.
 */
export async function labDown(dir: string, fleet: Fleet): Promise<void> {
  const record = await readRecord(dir);
  const identity = labComponent(fleet)?.process;
  if (record !== undefined && identity !== undefined && isAlive(identity)) {
    await runInLab(record, "systemctl poweroff", AbortSignal.timeout(POWER_OFF_LIMIT_MS)).catch(
      () => {},
    );
    // A machine that does not respond is ended as by a power cut, which a host must survive as
    // well.
    await waitUntilGone(identity, POWER_OFF_LIMIT_MS);
  }
  await fleet.detach(LAB_HOST_ID);
}

const labComponent = (fleet: Fleet) =>
  fleet.state.components.find(({ name }) => name === LAB_HOST_ID);

/** The running machine; throws a line with the remedy when there is none. */
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

/** Called before anything is built or started. Throws a line with the remedy. */
export function requireHypervisor({
  driver,
  cloudHypervisorBin,
}: Pick<LabOptions, "driver" | "cloudHypervisorBin">): void {
  if (driver === "cloud-hypervisor" && cloudHypervisorBin === undefined)
    throw new Error(
      "CLOUD_HYPERVISOR_BIN is not set: let it name a cloud-hypervisor 53 binary for x86_64 (docs/operate/hosts.md says where releases are), or use --driver simulated",
    );
}

/** The last log lines of the agent, for a message; empty when the machine does not respond. */
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
