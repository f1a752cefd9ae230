/**
 * A VM in three files. Nothing is synced, no file is replaced, and a failure leaves what was
 * written before it.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { VmError, withContext } from "./errors.ts";
import type { Faults } from "./faults.ts";
import { readImage, writeImage } from "./memory-image.ts";
import type { FakeVm } from "./vm.ts";
import { type FakeVmConfig, withDefaults } from "./vm-config.ts";

const CONFIG = "config.json";
const STATE = "state.json";
const MEMORY = "memory-ranges";
const SEND = ["Cannot send VM snapshot", "Failed to send migratable component snapshot"];
const RECEIVE = ["Cannot restore VM", "Failed to receive migratable component snapshot"];
const SCHEME = "file://";

export async function writeSnapshot(vm: FakeVm, url: string, faults: Faults): Promise<void> {
  const dir = directoryOf(url, SEND);
  const config = JSON.stringify(vm.config);
  const isShort = faults.take("short-config") !== undefined;
  create(
    dir,
    CONFIG,
    "VM config",
    (file) => void writeSync(file, isShort ? config.slice(0, config.length / 2) : config),
  );
  create(
    dir,
    STATE,
    "VM state",
    (file) => void writeSync(file, JSON.stringify(deviceState(vm.config))),
  );
  const path = join(dir, MEMORY);
  const file = withContext([...SEND, `Error creating memory snapshot file "${path}"`], () =>
    openSync(path, "wx"),
  );
  try {
    ftruncateSync(file, vm.config.memory.size);
    await untilMemoryMayBeWritten(faults);
    withContext([...SEND, "Error writing sparse memory snapshot region"], () =>
      writeImage(file, vm.config.memory.size, vm.saveMemory()),
    );
  } finally {
    closeSync(file);
  }
}

async function untilMemoryMayBeWritten(faults: Faults): Promise<void> {
  const isSnapshot = (fault: { call: string }) => fault.call === "vm.snapshot";
  await sleep(faults.take("slow", isSnapshot)?.ms ?? 0);
  if (faults.take("die", (fault) => isSnapshot(fault) && fault.when === "during"))
    process.kill(process.pid, "SIGKILL");
  if (faults.take("no-space"))
    throw new VmError([
      ...SEND,
      "Error writing sparse memory snapshot region",
      "No space left on device (os error 28)",
    ]);
}

export interface FakeSnapshot {
  config: FakeVmConfig;
  /** Undefined: no guest can continue from it. Read on demand, because the memory is read last. */
  readMemory: () => Buffer | undefined;
}

export function openSnapshot(url: string): FakeSnapshot {
  const dir = directoryOf(url, [
    "Cannot restore VM",
    "Failed to send migratable component snapshot",
  ]);
  const config = parse(dir, CONFIG, "VM config");
  parse(dir, STATE, "VM state");
  const readMemory = () =>
    withContext(["Memory manager error", "Error opening snapshot file"], () =>
      readImage(join(dir, MEMORY)),
    );
  return { config: withDefaults(config), readMemory };
}

function directoryOf(url: string, context: string[]): string {
  if (!url.startsWith(SCHEME))
    throw new VmError([...context, `Could not extract path from URL: ${url}`]);
  const path = url.slice(SCHEME.length);
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory() === true) return path;
  throw new VmError([...context, `Destination is not a directory: "${path}"`]);
}

function create(dir: string, name: string, title: string, write: (file: number) => void): void {
  const file = withContext([...SEND, `Error creating ${title} snapshot file`], () =>
    openSync(join(dir, name), "wx"),
  );
  try {
    withContext([...SEND, `Error writing ${title} snapshot`], () => write(file));
  } finally {
    closeSync(file);
  }
}

function parse(dir: string, name: string, title: string): unknown {
  const path = join(dir, name);
  const text = withContext([...RECEIVE, `Error opening ${title} snapshot file "${path}"`], () =>
    readFileSync(path, "utf8"),
  );
  try {
    return JSON.parse(text);
  } catch {
    throw new VmError([
      ...RECEIVE,
      `Error deserialising ${title} snapshot`,
      `EOF while parsing a value at line 1 column ${text.length}`,
    ]);
  }
}

/** The device names of the real one, without their state, which a toy does not have. */
function deviceState({ disks = [], vsock }: FakeVmConfig): unknown {
  const ids = [...disks.map(({ id }) => id), ...(vsock === undefined ? [] : [vsock.id])];
  const device = { snapshots: {}, snapshot_data: { state: "{}" } };
  const devices = Object.fromEntries(ids.map((id) => [id, device]));
  const snapshots = {
    "cpu-manager": device,
    "memory-manager": device,
    "device-manager": { snapshots: devices, snapshot_data: { state: "{}" } },
  };
  return { snapshots, snapshot_data: { state: "{}" } };
}
