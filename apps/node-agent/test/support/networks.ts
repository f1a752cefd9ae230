/**
 * Networks for tests of isolation: an uplink's namespace, an "internet" behind it with all kinds of
 * servers, and guests, each in its own namespace behind the tap of a VM. None of them is connected
 * to the machine's own network.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants, readFileSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { randomBytes } from "node:crypto";
import { fileURLToPath } from "node:url";
import { recordLeftover } from "@torpor/testkit";
import type { Enclosure } from "../../src/host/isolation.ts";

const run = promisify(execFile);
const script = (name: string) =>
  readFileSync(fileURLToPath(new URL(name, import.meta.url)), "utf8");
/** Only the system's programs: a VMM's user may have no access to others. */
const PATH = "/usr/sbin:/usr/bin:/sbin:/bin";
/** TMPDIR identifies what a killed run has left. */
const env = { PATH, TMPDIR: process.env["TMPDIR"] };
const [WIRE, PEER] = [script("wire.py"), script("peer.py")];

export const PUBLIC_SERVER = "203.0.113.10";
export const METADATA_SERVER = "169.254.169.254";
export const RESOLVER = "10.99.0.53";
export const PRIVATE_SERVERS = [
  "10.1.2.3",
  "172.20.0.5",
  "192.168.7.7",
  "100.64.3.2",
  "198.18.0.9",
];
/** Address of the uplink, as the internet sees it. */
export const UPLINK_ADDRESS = "192.0.2.1";
export const SERVER_PORT = 80;
const INTERNET_ADDRESS = "192.0.2.2";

/** The reason why this machine cannot make such networks; undefined if it can. */
export async function whyNoNamespaces(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return "not root";
  try {
    accessSync("/dev/net/tun", constants.R_OK | constants.W_OK);
    for (const program of ["nft", "ip", "nsenter", "setpriv", "python3"])
      await run("sh", ["-c", `command -v ${program}`], { env: { PATH } });
    const name = `torpor-test-${randomBytes(3).toString("hex")}`;
    await addNamespace(name);
    await ip("netns", "del", name);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message.trim() : String(error);
  }
}

export async function ip(...args: string[]): Promise<string> {
  return (await run("ip", args, { env })).stdout;
}

export async function addNamespace(name: string): Promise<void> {
  recordLeftover({ kind: "namespace", name });
  await ip("netns", "add", name);
}

export class Networks implements AsyncDisposable {
  readonly id = randomBytes(3).toString("hex");
  /** `torpor-` marks a namespace of Torpor, which may be set to forward. */
  readonly uplink = `torpor-test-${this.id}-uplink`;
  readonly internet = `torpor-test-${this.id}-internet`;
  private readonly guests: string[] = [];
  private readonly children: ChildProcess[] = [];
  /** A directory outside TMPDIR: a VMM's user needs access too. */
  private readonly dir = `/tmp/torpor-test-${this.id}`;

  static async make(): Promise<Networks> {
    const networks = new Networks();
    recordLeftover({ kind: "directory", name: networks.dir });
    await mkdir(networks.dir);
    await run("chmod", ["711", networks.dir]);
    await networks.connect();
    return networks;
  }

  private async connect(): Promise<void> {
    const { uplink, internet } = this;
    for (const namespace of [uplink, internet]) await addNamespace(namespace);
    await ip(
      "-n",
      uplink,
      "link",
      "add",
      "out0",
      "type",
      "veth",
      "peer",
      "name",
      "in0",
      "netns",
      internet,
    );
    await ip("-n", uplink, "addr", "add", `${UPLINK_ADDRESS}/30`, "dev", "out0");
    await ip("-n", internet, "addr", "add", `${INTERNET_ADDRESS}/30`, "dev", "in0");
    for (const address of [PUBLIC_SERVER, METADATA_SERVER, RESOLVER, ...PRIVATE_SERVERS])
      await ip("-n", internet, "addr", "add", `${address}/32`, "dev", "lo");
    for (const [namespace, device] of [
      [uplink, "out0"],
      [internet, "in0"],
    ] as const) {
      await ip("-n", namespace, "link", "set", "lo", "up");
      await ip("-n", namespace, "link", "set", device, "up");
    }
    await ip("-n", uplink, "route", "add", "default", "via", INTERNET_ADDRESS);
    // A server outside that has a route to the VMs.
    await ip("-n", internet, "route", "add", "10.0.0.0/8", "via", UPLINK_ADDRESS);
    await this.serve(internet, SERVER_PORT, 53, RESOLVER, PUBLIC_SERVER, METADATA_SERVER);
    await this.serve(uplink, SERVER_PORT);
  }

  async serve(
    namespace: string,
    tcpPort: number,
    udpPort?: number,
    ...addresses: string[]
  ): Promise<void> {
    const ports = [tcpPort, ...(udpPort === undefined ? [] : [udpPort])].map(String);
    await this.start([
      "ip",
      "netns",
      "exec",
      namespace,
      "python3",
      "-c",
      PEER,
      "serve",
      ...ports,
      ...addresses,
    ]);
  }

  /**
   * A guest behind the tap of an enclosure, whose agent listens; a silent one only accepts
   * connections. Returns its namespace, and the process that stands for its VMM.
   */
  async addGuest(
    enclosure: Enclosure,
    { isSilent = false } = {},
  ): Promise<{ namespace: string; vmm: ChildProcess }> {
    const { network } = enclosure;
    if (network.kind !== "namespace") throw new Error("the enclosure has no namespace");
    const namespace = `torpor-test-${this.id}-guest-${this.guests.length + 1}`;
    this.guests.push(namespace);
    const socket = join(this.dir, `${namespace}.sock`);
    await addNamespace(namespace);
    await this.start([
      "ip",
      "netns",
      "exec",
      namespace,
      "python3",
      "-c",
      WIRE,
      "eth0",
      socket,
      "listen",
    ]);
    await ip("-n", namespace, "link", "set", "lo", "up");
    await ip("-n", namespace, "addr", "add", "10.0.2.15/24", "dev", "eth0");
    await ip("-n", namespace, "link", "set", "eth0", "up");
    await ip("-n", namespace, "route", "add", "default", "via", "10.0.2.2");
    const role = isSilent ? "hold" : "serve";
    await this.start([
      "ip",
      "netns",
      "exec",
      namespace,
      "python3",
      "-c",
      PEER,
      role,
      String(network.control.port),
    ]);
    const vmm = await this.start(
      enclosure.wrap("python3", ["-c", WIRE, network.tap, socket, "connect"]),
    );
    return { namespace, vmm };
  }

  /**
   * Response to a process in `namespace`: the address that the server saw, the name of an error, or
   * `silence`.
   */
  async ask(
    namespace: string,
    kind: "tcp" | "udp",
    address: string,
    port: number,
    options: { waitS?: number; source?: string } = {},
  ): Promise<string> {
    const { waitS = 10, source } = options;
    const args = [
      "netns",
      "exec",
      namespace,
      "python3",
      "-c",
      PEER,
      "ask",
      kind,
      address,
      String(port),
      String(waitS),
    ];
    return (await ip(...args, ...(source === undefined ? [] : [source]))).trim();
  }

  /** The same, by a process in the enclosure. */
  async askAsVmm(enclosure: Enclosure, address: string, port: number): Promise<string> {
    const [command, ...args] = enclosure.wrap("python3", [
      "-c",
      PEER,
      "ask",
      "tcp",
      address,
      String(port),
      "2",
    ]);
    return (await run(command, args, { env })).stdout.trim();
  }

  private async start([command = "", ...args]: string[]): Promise<ChildProcess> {
    const child = spawn(command, args, { env, stdio: ["ignore", "pipe", "inherit"] });
    this.children.push(child);
    const [text] = (await Promise.race([
      once(child.stdout, "data"),
      once(child, "exit").then(([code]) => [`ended (${code}): ${args.slice(0, 4).join(" ")}`]),
    ])) as [Buffer | string];
    if (String(text).trim() !== "ready") throw new Error(String(text));
    return child;
  }

  async end(child: ChildProcess): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill("SIGKILL");
    await exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.children) await this.end(child);
    for (const namespace of [...this.guests, this.internet, this.uplink])
      await ip("netns", "del", namespace).catch(() => {});
    await rm(this.dir, { recursive: true, force: true });
  }
}
