import { chmod, mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { tempDir } from "@torpor/testkit";
import { describe, expect, test } from "vitest";
import {
  cpuOf,
  fingerprintOf,
  incompatibility,
  versionIn,
} from "../../src/drivers/cloud-hypervisor/fingerprint.ts";
import { findBinaries } from "../../src/drivers/cloud-hypervisor/versions.ts";

async function install(path: string, says: string): Promise<string> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, `#!/bin/sh\necho '${says}'\n`);
  await chmod(path, 0o755);
  return path;
}

describe("installed versions", () => {
  test("new VMs get the newest of the supported major; the others stay for their snapshots", async () => {
    await using dir = await tempDir();
    for (const version of ["53.2", "52.0", "53.10", "54.0"])
      await install(
        join(dir.path, version, "cloud-hypervisor"),
        `cloud-hypervisor v${version}\nMigration Protocol Versions: 0`,
      );
    const { current, all } = await findBinaries({ dir: dir.path });
    expect(current).toEqual({
      version: "53.10",
      path: join(dir.path, "53.10", "cloud-hypervisor"),
    });
    expect(all.map(({ version }) => version).toSorted()).toEqual(["52.0", "53.10", "53.2", "54.0"]);
  });

  test("what is missing is said with what to do", async () => {
    await using dir = await tempDir();
    await expect(findBinaries({})).rejects.toThrow(/set CLOUD_HYPERVISOR_BIN/);
    await expect(findBinaries({ bin: join(dir.path, "none") })).rejects.toThrow(/cannot be run as/);
    await expect(findBinaries({ dir: join(dir.path, "none") })).rejects.toThrow(
      /see CLOUD_HYPERVISOR_DIR/,
    );
    const old = await install(join(dir.path, "old"), "cloud-hypervisor v52.0");
    await expect(findBinaries({ bin: old })).rejects.toThrow(
      /new VMs need Cloud Hypervisor 53; installed: 52\.0/,
    );
    const other = await install(join(dir.path, "other"), "qemu 7.2");
    await expect(findBinaries({ bin: other })).rejects.toThrow(/names no version/);
  });
});

describe("what a snapshot depends on", () => {
  const CPUINFO =
    "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nstepping\t: 7\nmicrocode\t: 0x5003604\nflags\t\t: fpu vme sse2\n\n";
  const host = { cpu: cpuOf(CPUINFO), kernel: "6.1.0-56-cloud-amd64", network: "namespace" };
  const own = fingerprintOf("53.0", host);

  test("is one string that a person can read", () => {
    expect(own).toMatch(
      /^cloud-hypervisor\/53\.0\/GenuineIntel-6-85-7-0x5003604\+[0-9a-f]{16}\/6\.1\.0-56-cloud-amd64\/namespace$/,
    );
    expect(versionIn(own)).toBe("53.0");
    expect(versionIn("qemu/7.2")).toBeUndefined();
  });

  test("the order of the flags says nothing, another flag does", () => {
    expect(cpuOf(CPUINFO.replace("fpu vme sse2", "sse2 fpu vme"))).toBe(host.cpu);
    expect(cpuOf(CPUINFO.replace("sse2", "sse2 avx"))).not.toBe(host.cpu);
  });

  test("an update of microcode or kernel keeps a host's own snapshots", () => {
    const after = {
      ...host,
      cpu: cpuOf(CPUINFO.replace("0x5003604", "0x5003700")),
      kernel: "6.1.0-57-cloud-amd64",
    };
    expect(fingerprintOf("53.0", after)).not.toBe(own);
    expect(incompatibility(own, ["53.0"], after)).toBeUndefined();
  });

  test.each([
    ["of another VMM", "qemu/7.2/pc-q35-7.2/kvm/x", ["53.0"], host, /another VMM/],
    [
      "of a version that is not installed",
      fingerprintOf("52.0", host),
      ["53.0"],
      host,
      /needs Cloud Hypervisor 52\.0, and this host has 53\.0/,
    ],
    [
      "of another CPU",
      own,
      ["53.0"],
      { ...host, cpu: cpuOf(CPUINFO.replace("sse2", "sse2 avx")) },
      /another CPU/,
    ],
    [
      "of another kernel family",
      own,
      ["53.0"],
      { ...host, kernel: "6.12.9" },
      /under Linux 6\.1; this host runs 6\.12/,
    ],
    ["of another kind of network", own, ["53.0"], { ...host, network: "user" }, /network/],
  ])("a snapshot %s is refused with the reason", (_name, fingerprint, versions, here, reason) => {
    expect(incompatibility(fingerprint, versions, here)).toMatch(reason);
  });

  test("an older version that is still installed restores its own", () => {
    expect(incompatibility(fingerprintOf("52.0", host), ["53.0", "52.0"], host)).toBeUndefined();
  });
});
