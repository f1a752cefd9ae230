/**
 * Chooses the isolation: namespaces where the machine has what they need, else a separate user and
 * QEMU's closed network.
 */
import type { Logger } from "@torpor/service";
import type { NodeAgentConfig } from "../../config.ts";
import { type Isolation, plainIsolation } from "../isolation.ts";
import { linkCount, parseRange } from "./addresses.ts";
import { Cgroups, findCgroupMount } from "./cgroups.ts";
import { isInstalled } from "./commands.ts";
import type { Egress } from "./firewall.ts";
import { NamespaceIsolation } from "./namespaces.ts";
import { tagOf } from "./naming.ts";
import { SlotPool } from "./pool.ts";
import { findResolvers } from "./resolvers.ts";
import { runsSystemd, tryScope } from "./scopes.ts";
import type { Plumbing } from "./slots.ts";
import { dropUplinkRules, forwards, refuseCollision, setUplinkRules } from "./uplink.ts";

const PROGRAMS = { ip: "iproute2", nft: "nftables", nsenter: "util-linux", setpriv: "util-linux" };
/** Least useful number of links: one per VM, and the prepared ones. */
const LEAST_LINKS = 16;

export interface ChosenIsolation {
  isolation: Isolation;
  /** Removes prepared slots that no VM uses. What VMs use stays. */
  close: () => Promise<void>;
  /** Removes what all VMs share. Called once no VM is left on this host. */
  dismantle: () => Promise<void>;
}

/** VMMs get a user of their own where the agent is root. */
function vmmUid(config: NodeAgentConfig): number | undefined {
  return process.getuid?.() === 0 ? config.VMM_UID : undefined;
}

/** Throws if this machine cannot give what ISOLATION requires. */
export async function chooseIsolation(
  config: NodeAgentConfig,
  log: Pick<Logger, "info" | "warn">,
): Promise<ChosenIsolation> {
  if (config.DRIVER === "simulated") return plain(config, log, "simulated VMs need none");
  if (config.ISOLATION === "plain") return plain(config, log, "ISOLATION says so");
  try {
    const chosen = await isolateByNamespaces(config, log);
    log.info(
      { isolation: "namespaces", reason: "this machine has all that they need" },
      "isolation of VMs",
    );
    return chosen;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    if (config.ISOLATION === "namespaces")
      throw new Error(`ISOLATION=namespaces is not possible here: ${reason}`, { cause });
    log.warn(
      { reason },
      "VMs get no namespace and no cgroup of their own, and none reaches the internet",
    );
    return plain(config, log, reason);
  }
}

function plain(
  config: NodeAgentConfig,
  log: Pick<Logger, "info">,
  reason: string,
): ChosenIsolation {
  log.info({ isolation: "plain", reason }, "isolation of VMs");
  return {
    isolation: plainIsolation(vmmUid(config)),
    close: async () => {},
    dismantle: async () => {},
  };
}

async function isolateByNamespaces(
  config: NodeAgentConfig,
  log: Pick<Logger, "warn">,
): Promise<ChosenIsolation> {
  const uid = vmmUid(config);
  if (uid === undefined) throw new Error("the agent is not root");
  const missing = Object.entries(PROGRAMS).flatMap(([program, debian]) =>
    isInstalled(program) ? [] : [`${program} (Debian package ${debian})`],
  );
  if (missing.length > 0) throw new Error(`there is no ${missing.join(", no ")}`);
  const tag = tagOf(config.DATA_DIR);
  const range = parseRange(config.VM_NETWORK_CIDR);
  if (linkCount(range) < LEAST_LINKS)
    throw new Error(`VM_NETWORK_CIDR ${range.text} is too small: each VM takes two addresses`);
  const uplink = config.UPLINK_NETNS;
  await refuseCollision(range, uplink);
  const cgroups = await prepareCgroups(tag);
  const egress = await prepareEgress(config, log);
  const plumbing: Plumbing = { tag, uid, range, uplink, egress };
  const pool = await SlotPool.open(plumbing, config.VM_NETWORK_POOL, log);
  await pool.tryOne();
  if (egress === undefined) await dropUplinkRules(tag, uplink);
  else await setUplinkRules(tag, uplink, egress);
  pool.refill();
  return {
    isolation: new NamespaceIsolation({ plumbing, pool, cgroups, log }),
    close: async () => await pool.close(),
    dismantle: async () => {
      await pool.close();
      await cgroups?.close();
      await dropUplinkRules(tag, uplink);
    },
  };
}

/** Cgroups of this agent; undefined where systemd makes them. */
async function prepareCgroups(tag: string): Promise<Cgroups | undefined> {
  if (runsSystemd()) {
    await tryScope();
    return undefined;
  }
  const mount = await findCgroupMount();
  if (mount === undefined) throw new Error("no cgroup v2 is mounted");
  const cgroups = new Cgroups(mount, tag);
  await cgroups.tryOne();
  return cgroups;
}

/** Egress of guests with internet access; undefined: none, logged unless EGRESS is off. */
async function prepareEgress(
  config: NodeAgentConfig,
  log: Pick<Logger, "warn">,
): Promise<Egress | undefined> {
  if (config.EGRESS === "off") return undefined;
  if (!(await forwards(config.UPLINK_NETNS))) {
    const reason =
      "net.ipv4.ip_forward is 0: sysctl -w net.ipv4.ip_forward=1 (and a file in /etc/sysctl.d) lets guests out, EGRESS=off says that none shall be";
    if (config.ISOLATION === "namespaces") throw new Error(reason);
    log.warn({ reason }, "no VM of this host reaches the internet");
    return undefined;
  }
  const resolvers = await findResolvers(config.EGRESS_DNS);
  if (resolvers.length === 0)
    log.warn(
      { reason: "this machine names no server that is not on its loopback: set EGRESS_DNS" },
      "guests cannot resolve names",
    );
  return { resolvers, range: config.VM_NETWORK_CIDR };
}
