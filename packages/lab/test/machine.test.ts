/** The command line of the lab machine: its isolation from this machine, and its resources. */
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { machineComponent, makeDataDisk } from "../src/machine.ts";
import type { LabOptions } from "../src/options.ts";

const options: LabOptions = {
  root: "/checkout",
  dir: "/checkout/.torpor/lab",
  imageDir: "/checkout/images/a,b",
  driver: "cloud-hypervisor",
  cloudHypervisorBin: "/opt/cloud-hypervisor",
  qemuBin: "qemu-system-x86_64",
  memoryMib: 3072,
};
const record = {
  ports: { ssh: 1022, health: 1400, dataPlane: 1401 },
  machineDir: "/cache/machine",
  driver: "cloud-hypervisor",
};
const component = machineComponent(options, record, {
  data: "/data.raw",
  payload: "/payload",
  log: "/log",
});
const after = (name: string) =>
  component.args.flatMap((arg, at) => (arg === name ? [component.args[at + 1] ?? ""] : []));

test("its ports are on the loopback alone", () => {
  const [network = ""] = after("-netdev");
  const forwards = network.split(",").filter((part) => part.startsWith("hostfwd="));
  expect(forwards).toEqual([
    "hostfwd=tcp:127.0.0.1:1022-:22",
    "hostfwd=tcp:127.0.0.1:1400-:9400",
    "hostfwd=tcp:127.0.0.1:1401-:9401",
  ]);
});

test("what it sees of this machine it cannot write to, and its root disk is thrown away", () => {
  expect(after("-virtfs")).toHaveLength(2);
  for (const shared of after("-virtfs")) expect(shared).toContain("readonly=on");
  const [root, data] = after("-drive");
  expect(root).toContain("snapshot=on");
  expect(data).not.toContain("snapshot");
});

test("a comma in a path does not end an option", () => {
  expect(after("-virtfs")[1]).toContain("path=/checkout/images/a,,b,");
});

test("it is emulated, with a processor that can virtualize", () => {
  expect(after("-accel")).toEqual(["tcg"]);
  expect(after("-cpu")[0]).toContain("+svm");
  expect(component).toMatchObject({
    name: "lab-1",
    role: "lab",
    healthUrl: "http://127.0.0.1:1400/health",
  });
});

test("the data disk is made once, without taking room", async () => {
  const dir = await mkdtemp(join(tmpdir(), "lab-"));
  try {
    const file = await makeDataDisk(dir);
    const first = await stat(file);
    expect(first.blocks).toBe(0);
    expect(await makeDataDisk(dir)).toBe(file);
    expect(await stat(file)).toMatchObject({ ino: first.ino, size: first.size });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});
