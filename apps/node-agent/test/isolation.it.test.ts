/**
 * Isolation on real namespaces and real rules: what a guest reaches, what reaches a guest, and what
 * is left afterwards. The guest is a separate network stack behind the VM's tap; the VMM is a
 * process in the enclosure, with the user of VMMs.
 */
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rmdir } from "node:fs/promises";
import { join } from "node:path";
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { identify } from "@torpor/service";
import { recordLeftover, tempDir, until } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { configFrom } from "../src/config.ts";
import type { Vm } from "../src/drivers/driver.ts";
import { freeze, thaw } from "../src/fence/freeze.ts";
import { connectGuest } from "../src/guest-connection.ts";
import type { Enclosure } from "../src/host/isolation.ts";
import { findCgroupMount, findVmCgroup } from "../src/host/isolation/cgroups.ts";
import { type ChosenIsolation, chooseIsolation } from "../src/host/isolation/choose.ts";
import { command } from "../src/host/isolation/commands.ts";
import { tagOf } from "../src/host/isolation/naming.ts";
import {
  addNamespace,
  ip,
  METADATA_SERVER,
  Networks,
  PRIVATE_SERVERS,
  PUBLIC_SERVER,
  RESOLVER,
  SERVER_PORT,
  UPLINK_ADDRESS,
  whyNoNamespaces,
} from "./support/networks.ts";

const run = promisify(execFile);
const whyNot = await whyNoNamespaces();
if (whyNot !== undefined)
  process.stderr.write(
    `isolation.it.test.ts is skipped: this machine cannot make network namespaces (${whyNot})\n`,
  );

const CIDR = "10.214.0.0/16";
/** Silence counts only after this long; a response does not take it. */
const SILENCE_S = 2;
const silently = { waitS: SILENCE_S };
const vmOf = (sandboxId: string, internetAccess: boolean): Vm => ({
  dir: "/",
  sandboxId,
  vcpu: 1,
  memoryMib: 256,
  kernelCmdline: "",
  internetAccess,
});

describe.skipIf(whyNot !== undefined)("isolation by namespaces", () => {
  let networks: Networks;
  let dir: Awaited<ReturnType<typeof tempDir>>;
  let chosen: ChosenIsolation;
  let tag: string;
  const choose = async (more: NodeJS.ProcessEnv = {}) => {
    const config = configFrom({
      DATA_DIR: dir.path,
      ISOLATION: "namespaces",
      VM_NETWORK_CIDR: CIDR,
      UPLINK_NETNS: networks.uplink,
      EGRESS_DNS: RESOLVER,
      ...more,
    });
    recordLeftover({ kind: "host", name: config.DATA_DIR });
    const warn = (facts: object, message?: string) => {
      process.stderr.write(`${message}: ${JSON.stringify(facts)}\n`);
    };
    return await chooseIsolation(config, { info: () => {}, warn });
  };

  beforeAll(async () => {
    networks = await Networks.make();
    dir = await tempDir();
    tag = tagOf(dir.path);
    chosen = await choose();
  });
  afterAll(async () => {
    // Also what a failed test has left.
    const last = await choose();
    await last.isolation.collect([]);
    await last.dismantle();
    await networks?.[Symbol.asyncDispose]();
    await dir?.[Symbol.asyncDispose]();
  });

  /** Everything on this machine that carries the agent's tag. */
  const traces = async (): Promise<string[]> => {
    const cgroups = join((await findCgroupMount()) ?? "", `torpor-${tag}`);
    return [
      ...(await readdir("/run/netns")).filter((name) => name.startsWith(`torpor-${tag}-`)),
      ...(await ip("-n", networks.uplink, "-o", "link"))
        .split("\n")
        .filter((line) => line.includes(`tv${tag}`)),
      ...(await ip("netns", "exec", networks.uplink, "nft", "list", "tables"))
        .split("\n")
        .filter((line) => line.includes(tag)),
      ...(await readdir(cgroups, { withFileTypes: true }).catch(() => [])).flatMap((entry) =>
        entry.isDirectory() ? [entry.name] : [],
      ),
    ];
  };
  const controlOf = (enclosure: Enclosure) => {
    if (enclosure.network.kind !== "namespace") throw new Error("no namespace");
    return enclosure.network.control;
  };

  test("FW3: with internet access a guest reaches public addresses and its name server, and nothing private", async () => {
    const vm = vmOf("open", true);
    const enclosure = await chosen.isolation.enclose(vm, { devices: [] });
    const { namespace, vmm } = await networks.addGuest(enclosure);
    const from = async (kind: "tcp" | "udp", address: string, port: number, options = {}) =>
      await networks.ask(namespace, kind, address, port, options);

    // All of them can be reached, but not by a guest.
    for (const address of [PUBLIC_SERVER, METADATA_SERVER, ...PRIVATE_SERVERS])
      expect(await networks.ask(networks.uplink, "tcp", address, SERVER_PORT)).toMatch(/^[\d.]+$/);
    // Seen from outside, the requests come from the host.
    expect(await from("tcp", PUBLIC_SERVER, SERVER_PORT)).toBe(UPLINK_ADDRESS);
    expect(await from("udp", PUBLIC_SERVER, 53)).toBe(UPLINK_ADDRESS);
    expect(await from("udp", "10.0.2.3", 53)).toBe(UPLINK_ADDRESS);

    for (const address of [METADATA_SERVER, ...PRIVATE_SERVERS])
      expect([address, await from("tcp", address, SERVER_PORT)]).toEqual([address, "EHOSTUNREACH"]);
    // Only the name server may use the resolver.
    expect(await from("udp", RESOLVER, 53)).toBe("EHOSTUNREACH");
    expect(await from("tcp", RESOLVER, SERVER_PORT)).toBe("EHOSTUNREACH");
    // The host itself, by its public address and by its end of the link.
    expect(await from("tcp", UPLINK_ADDRESS, SERVER_PORT, silently)).toBe("silence");
    expect(await from("tcp", controlOf(enclosure).host, SERVER_PORT, silently)).not.toMatch(/\d/);
    // No address but the guest's own works.
    await ip("-n", namespace, "addr", "add", "10.0.2.99/24", "dev", "eth0");
    expect(
      await from("tcp", PUBLIC_SERVER, SERVER_PORT, { ...silently, source: "10.0.2.99" }),
    ).toBe("silence");
    const counters = await countersOf(enclosure);
    expect(counters["refused"]).toBeGreaterThan(0);
    expect(counters["spoofed"]).toBeGreaterThan(0);

    await networks.end(vmm);
    await chosen.isolation.release(vm);
  });

  test("without internet access nothing leaves a guest, and its agent still answers the host, and only the host", async () => {
    const [closed, open] = [vmOf("closed", false), vmOf("open", true)];
    const enclosure = await chosen.isolation.enclose(closed, { devices: [] });
    const { namespace, vmm } = await networks.addGuest(enclosure);
    const other = await chosen.isolation.enclose(open, { devices: [] });
    const neighbour = await networks.addGuest(other);
    const control = controlOf(enclosure);

    for (const address of [PUBLIC_SERVER, METADATA_SERVER, ...PRIVATE_SERVERS])
      expect([address, await networks.ask(namespace, "tcp", address, SERVER_PORT)]).toEqual([
        address,
        "EHOSTUNREACH",
      ]);
    expect(await networks.ask(namespace, "udp", "10.0.2.3", 53)).toBe("EHOSTUNREACH");

    // A guest sees its gateway as the client, whatever the host's address.
    expect(await networks.ask(networks.uplink, "tcp", control.host, control.port)).toBe("10.0.2.2");
    expect(await networks.ask(networks.uplink, "tcp", controlOf(other).host, control.port)).toBe(
      "10.0.2.2",
    );
    expect(await networks.ask(networks.internet, "tcp", control.host, control.port, silently)).toBe(
      "silence",
    );
    for (const [asker, target] of [
      [namespace, other],
      [neighbour.namespace, enclosure],
    ] as const)
      expect(await networks.ask(asker, "tcp", controlOf(target).host, control.port)).toBe(
        "EHOSTUNREACH",
      );
    // No other port of a guest can be reached.
    expect(await networks.ask(networks.uplink, "tcp", control.host, 22, silently)).toBe("silence");

    for (const child of [vmm, neighbour.vmm]) await networks.end(child);
    for (const vm of [closed, open]) await chosen.isolation.release(vm);
  });

  test("FW2: a VMM that was taken over has no rights, no network but its guest, and stands still when it is frozen", async () => {
    const vm = vmOf("vmm", true);
    const enclosure = await chosen.isolation.enclose(vm, { devices: [] });
    const { vmm } = await networks.addGuest(enclosure);
    const status = await readFile(`/proc/${vmm.pid}/status`, "utf8");
    expect(status).toMatch(new RegExp(`^Uid:\\s+${enclosure.uid}\\s+${enclosure.uid}\\s`, "m"));
    for (const set of ["Inh", "Prm", "Eff", "Bnd", "Amb"])
      expect(status).toMatch(new RegExp(`^Cap${set}:\\s+0+$`, "m"));
    expect(status).toMatch(/^NoNewPrivs:\s+1$/m);
    expect(await readFile(`/proc/${vmm.pid}/cgroup`, "utf8")).toMatch(
      new RegExp(`^0::.*${tag}.*vmm`, "m"),
    );
    for (const address of [PUBLIC_SERVER, METADATA_SERVER, UPLINK_ADDRESS])
      expect(await networks.askAsVmm(enclosure, address, SERVER_PORT)).not.toMatch(/\d/);

    const control = controlOf(enclosure);
    const identity = identify(vmm.pid ?? 0);
    if (identity === undefined) throw new Error("the VMM has ended");
    expect(await freeze(identity)).toBe("cgroup");
    expect(
      await networks.ask(networks.uplink, "tcp", control.host, control.port, silently),
    ).not.toBe("10.0.2.2");
    await thaw(identity, "cgroup");
    expect(await networks.ask(networks.uplink, "tcp", control.host, control.port)).toBe("10.0.2.2");
    expect(await findVmCgroup(process.pid)).toBeUndefined();

    await networks.end(vmm);
    await chosen.isolation.release(vm);
  });

  test("S35, SL1, SL2: after a crash of the agent, what a live VM uses stays as it is; the rest of this agent's goes, and nothing of others", async () => {
    const [live, dead] = [vmOf("live", false), vmOf("dead", true)];
    const enclosure = await chosen.isolation.enclose(live, { devices: [] });
    const { vmm } = await networks.addGuest(enclosure);
    const lost = await chosen.isolation.enclose(dead, { devices: [] });
    // A half-made slot, and resources of another agent.
    await addNamespace(`torpor-${tag}-777`);
    const foreign = `torpor-${networks.id}-0`;
    const foreignCgroups = join((await findCgroupMount()) ?? "", `torpor-${networks.id}`);
    const foreignCgroup = join(foreignCgroups, "somebody");
    await addNamespace(foreign);
    recordLeftover({ kind: "cgroup", name: foreignCgroups });
    await mkdir(foreignCgroup, { recursive: true });
    await command(
      ["nsenter", `--net=/run/netns/${networks.uplink}`, "nft", "-f", "-"],
      `table inet torpor_${networks.id}\n`,
    );

    // The crashed agent is not closed: the new one knows only what it finds.
    const next = await choose({ VM_NETWORK_POOL: "0" });
    await next.isolation.collect([live]);

    const control = controlOf(enclosure);
    expect(await networks.ask(networks.uplink, "tcp", control.host, control.port)).toBe("10.0.2.2");
    const namespaces = await readdir("/run/netns");
    expect(namespaces).toContain(foreign);
    expect(namespaces).not.toContain(`torpor-${tag}-777`);
    if (lost.network.kind === "namespace") expect(namespaces).not.toContain(lost.network.name);
    expect(existsSync(foreignCgroup)).toBe(true);
    expect(await ip("netns", "exec", networks.uplink, "nft", "list", "tables")).toContain(
      `torpor_${networks.id}`,
    );

    await networks.end(vmm);
    await next.isolation.release(live);
    await chosen.close();
    await next.dismantle();
    expect(await traces()).toEqual([]);
    await ip("netns", "del", foreign);
    await rmdir(foreignCgroup);
    await rmdir(foreignCgroups);
    chosen = await choose();
  });

  test("S17: 50 VMs by 10 workers leave no namespace, tap, link, rule, cgroup or process", async () => {
    const names = new Set<string>();
    const pids: number[] = [];
    const todo = Array.from({ length: 50 }, (_, at) => vmOf(`many-${at}`, at % 2 === 0));
    const worker = async () => {
      for (let vm = todo.pop(); vm !== undefined; vm = todo.pop()) {
        const enclosure = await chosen.isolation.enclose(vm, { devices: [] });
        const [program, ...args] = enclosure.wrap("sh", [
          "-c",
          "echo $$; test -e /sys/class/net/tap0",
        ]);
        const { stdout } = await run(program, args);
        pids.push(Number(stdout));
        if (enclosure.network.kind === "namespace") names.add(enclosure.network.name);
        await chosen.isolation.release(vm);
      }
    };
    await Promise.all(Array.from({ length: 10 }, worker));
    expect(pids).toHaveLength(50);
    expect(names.size).toBeGreaterThan(1);
    await chosen.dismantle();
    expect(await traces()).toEqual([]);
    expect(pids.filter((pid) => existsSync(`/proc/${pid}`) && isOurs(pid))).toEqual([]);
  });

  test("a connection into a guest breaks with its VM: nobody waits for an answer from a namespace that is gone", async () => {
    await using own = await tempDir();
    // In this process's own network, like an agent's connections; nothing leaves it.
    const agent = await choose({
      DATA_DIR: own.path,
      UPLINK_NETNS: undefined,
      VM_NETWORK_CIDR: "10.216.0.0/16",
      EGRESS: "off",
    });
    const vm = vmOf("talking", false);
    const enclosure = await agent.isolation.enclose(vm, { devices: [] });
    const { vmm } = await networks.addGuest(enclosure, { isSilent: true });
    const { host, port } = controlOf(enclosure);
    const socket = await until("the guest is there", () =>
      connectGuest({ kind: "tcp", host, port }).catch(() => undefined),
    );
    const ended = once(socket, "error");
    socket.write("a question\n");
    await networks.end(vmm);
    expect(socket.closed).toBe(false);
    await agent.isolation.release(vm);
    expect(await ended).toMatchObject([{ message: "the VM has ended" }]);
    await agent.dismantle();
  });

  test("a range that is another network of the machine is refused, with what to do", async () => {
    await expect(choose({ VM_NETWORK_CIDR: "192.0.0.0/16" })).rejects.toThrow(
      /overlaps a network of this machine.*set it to a range/,
    );
    const auto = await choose({ VM_NETWORK_CIDR: "192.0.0.0/16", ISOLATION: "auto" });
    expect(auto.isolation.networkKind).toBe("user");
  });

  test("SL3: two agents on one machine never give out the same address", async () => {
    await using first = await tempDir();
    await using second = await tempDir();
    const agents = await Promise.all(
      [first, second].map(({ path }) =>
        choose({ DATA_DIR: path, VM_NETWORK_CIDR: "10.215.0.0/26" }),
      ),
    );
    const vms = Array.from({ length: 12 }, (_, at) => vmOf(`shared-${at}`, false));
    const enclosures = await Promise.all(
      agents.flatMap(({ isolation }) => vms.map((vm) => isolation.enclose(vm, { devices: [] }))),
    );
    expect(new Set(enclosures.map((enclosure) => controlOf(enclosure).host)).size).toBe(24);
    for (const { isolation, dismantle } of agents) {
      for (const vm of vms) await isolation.release(vm);
      await dismantle();
    }
  });

  function isOurs(pid: number): boolean {
    return existsSync(join("/proc", String(pid), "root", "sys/class/net/tap0"));
  }

  async function countersOf({ network }: Enclosure): Promise<Record<string, number>> {
    if (network.kind !== "namespace") throw new Error("no namespace");
    const { nftables } = JSON.parse(
      await ip("netns", "exec", network.name, "nft", "-j", "list", "counters"),
    ) as {
      nftables: { counter?: { name: string; packets: number } }[];
    };
    return Object.fromEntries(
      nftables.flatMap(({ counter }) =>
        counter === undefined ? [] : [[counter.name, counter.packets]],
      ),
    );
  }
});
