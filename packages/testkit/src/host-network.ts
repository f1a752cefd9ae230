/**
 * Networks for the hosts of a test fleet that are to lose theirs: each host's agent runs in its own
 * network namespace, all on one bridge, with this machine at `outside`. Traffic from a host, to a
 * host, or both can be cut; processes notice only silence.
 */
import { randomBytes } from "node:crypto";
import { run } from "@torpor/service";
import { relay, type Relay } from "./relay.ts";
import { recordLeftover } from "./test-run/leftovers.ts";

type Direction = "from-host" | "to-host" | "both";

interface NetworkedHost {
  /** Start of a command line that runs in the host's namespace. */
  prefix: string[];
  /** Address of the host, on the bridge and for this machine. */
  address: string;
  cut(direction: Direction): Promise<void>;
  heal(): Promise<void>;
}

export interface HostNetwork extends AsyncDisposable {
  /** Address of this machine for the hosts. */
  outside: string;
  hosts: NetworkedHost[];
  /** Forwards the port at `outside` to the same port of this machine's loopback. */
  carry(port: number): Promise<void>;
}

const PREFIX_LENGTH = 24;
const TABLE = "inet torpor_test";

/** The reason why this machine cannot have such networks; undefined if it can. */
export async function hostNetworkProblem(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return "network namespaces can be made by root alone";
  const name = `${newBase()}x`;
  recordLeftover({ kind: "namespace", name });
  const made = await sh(`ip netns add ${name} && ip netns del ${name}`);
  return made.code === 0
    ? undefined
    : `no network namespace can be made here: ${made.output.trim()}`;
}

export async function makeHostNetwork(count: number): Promise<HostNetwork> {
  // Addresses by process: test files run at the same time. VMs of agents have 10.213.0.0/16.
  const subnet = `10.217.${process.pid % 250}`;
  const base = newBase();
  const outside = `${subnet}.1`;
  const ways: Relay[] = [];
  const dispose = async () => {
    for (const way of ways) way.close();
    for (let at = 0; at < count; at += 1) await sh(`ip netns del ${base}n${at}`);
    await sh(`ip link del ${base}b`);
  };
  recordLeftover({ kind: "link", name: `${base}b` });
  try {
    await must(
      `ip link add ${base}b type bridge && ip addr add ${outside}/${PREFIX_LENGTH} dev ${base}b && ip link set ${base}b up`,
    );
    const hosts: NetworkedHost[] = [];
    for (let at = 0; at < count; at += 1)
      hosts.push(await makeHost(base, at, `${subnet}.${at + 2}`));
    return {
      outside,
      hosts,
      carry: async (port) => {
        ways.push(await relay({ host: outside, port }, { host: "127.0.0.1", port }));
      },
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** A name that is never used again: leftovers of a killed run are removed by name. */
function newBase(): string {
  return `tt${randomBytes(4).toString("hex")}`;
}

async function makeHost(base: string, at: number, address: string): Promise<NetworkedHost> {
  const namespace = `${base}n${at}`;
  const link = `${base}v${at}`;
  recordLeftover({ kind: "namespace", name: namespace });
  await must(
    [
      `ip netns add ${namespace}`,
      `ip link add ${link} type veth peer name eth0 netns ${namespace}`,
      `ip link set ${link} master ${base}b up`,
      `ip -n ${namespace} link set lo up`,
      `ip -n ${namespace} addr add ${address}/${PREFIX_LENGTH} dev eth0`,
      `ip -n ${namespace} link set eth0 up`,
    ].join(" && "),
  );
  const prefix = ["ip", "netns", "exec", namespace];
  const nft = (script: string) => must(`${prefix.join(" ")} nft '${script}'`);
  const chain = (hook: string, rule: string) =>
    `chain ${hook} { type filter hook ${hook} priority 0; ${rule} drop; }`;
  return {
    prefix,
    address,
    cut: async (direction) => {
      const incoming = direction === "from-host" ? "" : chain("input", 'iifname "eth0"');
      const outgoing = direction === "to-host" ? "" : chain("output", 'oifname "eth0"');
      await nft(`table ${TABLE} {\n${incoming}\n${outgoing}\n}`);
    },
    heal: () => nft(`add table ${TABLE}; delete table ${TABLE}`),
  };
}

async function sh(script: string): Promise<{ code: number; output: string }> {
  const path = `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`;
  return await run(["sh", "-c", script], { cwd: "/", isShown: false, env: { PATH: path } });
}

async function must(script: string): Promise<void> {
  const { code, output } = await sh(script);
  if (code !== 0) throw new Error(`${script}: ${output.trim()}`);
}
