import { describe, expect, test } from "vitest";
import { differences, vmConfig } from "../../src/drivers/cloud-hypervisor/config.ts";

const VM = {
  dir: "/data/vm/1",
  sandboxId: "1",
  vcpu: 2,
  memoryMib: 512,
  kernelCmdline: "console=ttyS0",
  internetAccess: true,
};
const NAMESPACE = {
  kind: "namespace",
  name: "n",
  tap: "tap0",
  control: { host: "10.0.0.1", port: 7777 },
} as const;

describe("the virtual machine that is asked for", () => {
  test("CF1: no path is absolute but devices of the host, so that a snapshot can move", () => {
    const text = JSON.stringify(vmConfig(VM, { network: NAMESPACE, landlock: true }));
    const paths = [...text.matchAll(/"(\/[^"]*)"/g)].map(([, path]) => path);
    expect(paths).toEqual(["/dev/urandom", "/sys/devices/virtual/net"]);
  });

  test("CF2: every device has an id, the disks are raw, and the guest's order is root, then disk", () => {
    const config = vmConfig(VM, { network: NAMESPACE, landlock: false });
    expect(
      config.disks.map(({ id, path, image_type, serial, readonly }) => [
        id,
        path,
        image_type,
        serial,
        readonly,
      ]),
    ).toEqual([
      ["root", "rootfs.ext4", "Raw", "root", true],
      ["disk", "disk.raw", "Raw", "disk", false],
    ]);
    for (const device of [
      ...config.disks,
      ...(config.net ?? []),
      config.vsock,
      config.rng,
      config.balloon,
    ])
      expect(device.id).toMatch(/^\w+$/);
    expect(config.memory).toMatchObject({ size: 512 * 1024 ** 2, shared: true });
  });

  test("a network device is there only where the VM has a network of its own, and it has no address", () => {
    expect(vmConfig(VM, { network: { kind: "user" }, landlock: false })).not.toHaveProperty("net");
    expect(vmConfig(VM, { network: NAMESPACE, landlock: false }).net).toEqual([
      { id: "net0", tap: "tap0", mac: "02:fc:00:00:00:02" },
    ]);
  });

  test("the guest's clock is the one that goes on over a pause, unless its image says otherwise", () => {
    const cmdline = (kernelCmdline: string) =>
      vmConfig({ ...VM, kernelCmdline }, { network: { kind: "user" }, landlock: false }).payload
        .cmdline;
    expect(cmdline("console=ttyS0")).toBe("console=ttyS0 clocksource=kvm-clock");
    expect(cmdline("clocksource=tsc quiet")).toBe("clocksource=tsc quiet");
    expect(cmdline("")).toBe("clocksource=kvm-clock");
  });
});

describe("what was taken of it", () => {
  const asked = vmConfig(VM, { network: NAMESPACE, landlock: true });

  test("defaults that were not asked for do not matter", () => {
    const taken = {
      ...structuredClone(asked),
      watchdog: false,
      cpus: { ...asked.cpus, profile: "Host" },
    };
    expect(differences(asked, taken)).toEqual([]);
  });

  test("CF3: an option that was dropped, changed or doubled is named", () => {
    const taken = structuredClone(asked) as unknown as Record<string, never> & typeof asked;
    Object.assign(taken.disks[1] ?? {}, { serial: undefined });
    taken.memory.shared = false;
    taken.net?.push({ id: "net1", tap: "tap1", mac: "02:00:00:00:00:01" });
    expect(differences(asked, taken)).toEqual([
      "memory.shared: asked true, has false",
      'disks.1.serial: asked "disk", has nothing',
      expect.stringContaining("net: asked [") as string,
    ]);
  });
});
