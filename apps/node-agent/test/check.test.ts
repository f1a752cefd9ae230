/** The host check: on directories that stand for machines, and once on this machine. */
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { execFile } from "node:child_process";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Finding, CheckedMachine } from "../src/check/finding.ts";
import { CHECKS, checkMachine, renderReport, settingsFrom } from "../src/check/report.ts";

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "check-"));
});
afterEach(async () => {
  await rm(root, { recursive: true, force: true });
});

const FILES: Record<string, string> = {
  "/proc/cpuinfo": "processor : 0\nflags\t\t: fpu svm sse2\n",
  "/proc/sys/kernel/osrelease": "6.12.3-amd64\n",
  "/proc/sys/net/ipv4/ip_forward": "1\n",
  "/sys/kernel/security/lsm": "lockdown,capability,landlock,yama\n",
  "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
  "/sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
  "/etc/passwd":
    "root:x:0:0::/root:/bin/bash\ntorpor-vmm:x:64055:64055::/nonexistent:/usr/sbin/nologin\n",
};

/** A machine that consists of files; `change` replaces files, environment or commands. */
async function machineWith(
  change: {
    files?: Record<string, string>;
    env?: NodeJS.ProcessEnv;
    run?: CheckedMachine["run"];
  } = {},
): Promise<CheckedMachine> {
  for (const [path, content] of Object.entries({ ...FILES, ...change.files })) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), content);
  }
  await mkdir(join(root, "/var/lib/torpor/images"), { recursive: true });
  for (const dir of ["/var/lib/torpor", "/var/lib/torpor/images"])
    await chmod(join(root, dir), 0o755);
  const env = {
    PATH: process.env["PATH"],
    CLOUD_HYPERVISOR_BIN: "/opt/cloud-hypervisor",
    ...change.env,
  };
  const run =
    change.run ??
    (async (command) => ({
      code: 0,
      output: command.includes("cloud") ? "cloud-hypervisor v53.0\n" : "",
    }));
  return { root, env, settings: settingsFrom(env), run };
}

async function find(machine: CheckedMachine, name: string): Promise<Finding> {
  const [checked] = await checkMachine(
    machine,
    CHECKS.filter((check) => check.name === name),
  );
  if (checked === undefined) throw new Error(`there is no check "${name}"`);
  return checked.finding;
}

test("each check has a name of its own, and each finding says what was found and what to do", async () => {
  const report = await checkMachine(await machineWith(), CHECKS);
  expect(new Set(report.map(({ name }) => name)).size).toBe(CHECKS.length);
  for (const { finding } of report) {
    expect(finding.found).not.toBe("");
    if (finding.kind !== "ok") expect(finding.remedy).not.toBe("");
  }
  expect(renderReport(report)).toContain("required things are missing");
});

test.each([
  "virtualization",
  "kernel",
  "landlock",
  "cgroup v2",
  "clock source",
  "net.ipv4.ip_forward",
  "cloud-hypervisor",
  "data directory",
  "images directory",
  "reflink",
  "one file system",
  "VMM user",
])("%s is well on a machine that has it", async (name) => {
  expect((await find(await machineWith(), name)).kind).toBe("ok");
});

test.each<[string, string, string, Finding["kind"], string]>([
  ["virtualization", "/proc/cpuinfo", "flags : fpu\n", "missing", "nested virtualization"],
  ["kernel", "/proc/sys/kernel/osrelease", "5.10.0-9-amd64\n", "missing", "5.13"],
  ["landlock", "/proc/sys/kernel/osrelease", "6.1.0-9-amd64\n", "advised", "6.2"],
  ["landlock", "/sys/kernel/security/lsm", "capability,yama\n", "advised", "lsm="],
  ["cgroup v2", "/sys/fs/cgroup/cgroup.controllers", "cpu pids\n", "missing", "memory"],
  ["cgroup v2", "/sys/fs/cgroup/cgroup.controllers", "", "missing", "unified"],
  [
    "clock source",
    "/sys/devices/system/clocksource/clocksource0/current_clocksource",
    "hpet\n",
    "advised",
    "tsc",
  ],
  ["net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward", "0\n", "missing", "sysctl"],
  ["VMM user", "/etc/passwd", "root:x:0:0::/root:/bin/bash\n", "missing", "install.sh"],
])("%s: %s = %j is %s", async (name, path, content, kind, remedy) => {
  const finding = await find(await machineWith({ files: { [path]: content } }), name);
  expect(finding).toMatchObject({ kind, remedy: expect.stringContaining(remedy) as string });
});

test("devices that are plain files are no devices", async () => {
  const machine = await machineWith({ files: { "/dev/kvm": "", "/dev/net/tun": "" } });
  expect((await find(machine, "/dev/kvm")).kind).toBe("missing");
  expect((await find(machine, "/dev/net/tun")).kind).toBe("missing");
});

test("a /dev/kvm that the VMM's user cannot open is missing for Cloud Hypervisor, and advised for other drivers", async () => {
  const run: CheckedMachine["run"] = async () => ({ code: 2, output: "Permission denied" });
  const files = { "/dev/kvm": "" };
  expect(await find(await machineWith({ files, run }), "/dev/kvm for the VMM user")).toMatchObject({
    kind: "missing",
    found: expect.stringContaining("Permission denied") as string,
  });
  expect(
    (
      await find(
        await machineWith({ files, run, env: { DRIVER: "qemu" } }),
        "/dev/kvm for the VMM user",
      )
    ).kind,
  ).toBe("advised");
});

test("Python is needed for simulated virtual machines alone", async () => {
  const PATH = join(root, "bin");
  expect((await find(await machineWith({ env: { PATH } }), "python3")).kind).toBe("ok");
  const simulated = await machineWith({ env: { PATH, DRIVER: "simulated" } });
  const missing = { kind: "missing", remedy: "apt-get install python3" };
  expect(await find(simulated, "python3")).toMatchObject(missing);
});

test("programs are looked for in PATH", async () => {
  const machine = await machineWith({ env: { PATH: join(root, "bin") } });
  expect(await find(machine, "nft")).toMatchObject({
    kind: "missing",
    remedy: "apt-get install nftables",
  });
  await mkdir(join(root, "bin"));
  await writeFile(join(root, "bin/nft"), "", { mode: 0o755 });
  expect((await find(machine, "nft")).kind).toBe("ok");
});

test.each(["cloud-hypervisor v52.0\n", "QEMU emulator version 7.2\n", ""])(
  "a Cloud Hypervisor that says %j is not the one that is needed",
  async (output) => {
    expect(
      (
        await find(
          await machineWith({ run: async () => ({ code: 0, output }) }),
          "cloud-hypervisor",
        )
      ).kind,
    ).toBe("missing");
  },
);

test("of several versions in a directory the right one is found", async () => {
  const run: CheckedMachine["run"] = async (path) => ({
    code: 0,
    output: `cloud-hypervisor v${path.includes("/53.1/") ? "53.1" : "51.0"}\n`,
  });
  const machine = await machineWith({ run, env: { CLOUD_HYPERVISOR_BIN: "" } });
  for (const version of ["51.0", "53.1"])
    await mkdir(join(root, "/usr/lib/torpor/cloud-hypervisor", version), { recursive: true });
  expect(await find(machine, "cloud-hypervisor")).toMatchObject({
    kind: "ok",
    found: expect.stringContaining("53.1") as string,
  });
});

test("a Cloud Hypervisor that is not set or cannot be run is missing", async () => {
  expect(
    (await find(await machineWith({ env: { CLOUD_HYPERVISOR_BIN: "" } }), "cloud-hypervisor"))
      .found,
  ).toContain("none");
  expect(
    (
      await find(
        await machineWith({ run: async () => ({ code: 127, output: "" }) }),
        "cloud-hypervisor",
      )
    ).found,
  ).toContain("127");
});

test("directories: the VMM's user must get through to its own", async () => {
  const machine = await machineWith();
  await chmod(join(root, "/var/lib/torpor"), 0o700);
  expect((await find(machine, "data directory")).kind).toBe("missing");
  await rm(join(root, "/var/lib/torpor"), { recursive: true });
  for (const name of ["data directory", "reflink", "free disk", "one file system"])
    expect((await find(machine, name)).kind).toBe("missing");
});

test("a snapshot store that protects from nothing is said, and nobody else may read one", async () => {
  const look = async (env: NodeJS.ProcessEnv) =>
    await find(await machineWith({ env }), "snapshot store");
  expect(await look({})).toMatchObject({ kind: "advised", found: "none" });
  expect(await look({ SNAPSHOT_STORE: "s3" })).toMatchObject({ kind: "ok", found: "s3" });
  expect(await look({ SNAPSHOT_STORE: "file" })).toMatchObject({
    kind: "missing",
    found: "SNAPSHOT_STORE_DIR is not set",
  });
  const env = { SNAPSHOT_STORE: "file", SNAPSHOT_STORE_DIR: "/var/lib/torpor/snapshots" };
  expect(await look(env)).toMatchObject({
    kind: "missing",
    found: expect.stringContaining("is not there") as string,
  });
  const path = join(root, env.SNAPSHOT_STORE_DIR);
  await mkdir(path);
  await chmod(path, 0o755);
  expect(await look(env)).toMatchObject({
    kind: "missing",
    remedy: expect.stringContaining("chmod 700") as string,
  });
  await chmod(path, 0o700);
  expect(await look(env)).toMatchObject({
    kind: "advised",
    remedy: expect.stringContaining("lost with this host") as string,
  });
});

test("a file system without reflinks is named, and nothing stays of the try", async () => {
  const machine = await machineWith({
    run: async () => ({ code: 1, output: "Operation not supported" }),
  });
  expect((await find(machine, "reflink")).kind).toBe("advised");
  expect((await readdir(join(root, "/var/lib/torpor"))).toSorted()).toEqual(["images"]);
});

test("secrets must be there, and be nobody else's", async () => {
  const env = { NATS_PASSWORD_FILE: "/etc/torpor/nats-password" };
  expect((await find(await machineWith({ env }), "secrets")).found).toContain("not there");
  const machine = await machineWith({ env, files: { "/etc/torpor/nats-password": "secret" } });
  await chmod(join(root, "/etc/torpor/nats-password"), 0o644);
  expect((await find(machine, "secrets")).found).toContain("644");
  await chmod(join(root, "/etc/torpor/nats-password"), 0o600);
  expect((await find(machine, "secrets")).kind).toBe("ok");
  expect((await find(await machineWith(), "secrets")).found).toContain("none");
});

test("the unit must be enabled and active", async () => {
  const systemd =
    (enabled: string, active: string): CheckedMachine["run"] =>
    async (_, args) => ({ code: 0, output: args[0] === "is-enabled" ? enabled : active });
  expect(
    (await find(await machineWith({ run: systemd("enabled\n", "active\n") }), "systemd unit")).kind,
  ).toBe("ok");
  expect(
    (await find(await machineWith({ run: systemd("enabled\n", "failed\n") }), "systemd unit"))
      .found,
  ).toContain("failed");
  expect((await find(await machineWith({ run: systemd("", "") }), "systemd unit")).found).toContain(
    "not there",
  );
  expect(
    (await find(await machineWith({ run: systemd("enabled\n", "active\n") }), "fence")).kind,
  ).toBe("ok");
  expect(
    await find(await machineWith({ run: systemd("enabled\n", "failed\n") }), "fence"),
  ).toMatchObject({ kind: "advised" });
});

test("NATS is reached, or the address that is not is named", async () => {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const NATS_URL = `nats://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}`;
  expect((await find(await machineWith({ env: { NATS_URL } }), "NATS")).kind).toBe("ok");
  await new Promise((resolve) => server.close(resolve));
  expect(await find(await machineWith({ env: { NATS_URL } }), "NATS")).toMatchObject({
    kind: "missing",
    found: expect.stringContaining(NATS_URL.slice(7)) as string,
  });
  expect((await find(await machineWith({ env: { NATS_URL: "nowhere" } }), "NATS")).kind).toBe(
    "missing",
  );
  expect((await find(await machineWith(), "NATS")).kind).toBe("advised");
});

test("the command looks at this machine, a line for each item, and its exit code is its verdict", async () => {
  const program = join(import.meta.dirname, "../src/command.ts");
  const env = { PATH: process.env["PATH"], DATA_DIR: join(root, "nowhere") };
  const { code, output } = await new Promise<{ code: number; output: string }>((resolve) => {
    execFile(process.execPath, [program, "check"], { env }, (error, stdout) =>
      resolve({ code: error === null ? 0 : Number(error.code), output: stdout }),
    );
  });
  for (const { name } of CHECKS) expect(output).toContain(` ${name} `);
  expect(output).toMatch(/MISSING\s+data directory\s+.*nowhere is not there/);
  expect(code).toBe(1);
});
