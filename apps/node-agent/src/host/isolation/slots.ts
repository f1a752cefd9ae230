/**
 * Slots: a network namespace with a tap for one VM and a link to the uplink's namespace, made and
 * removed whole.
 *
 * SL1  A slot is found by its name; its owner is in the alias of its link (`ip link`). Only kernel
 *      objects hold this: a reboot leaves no wrong record, a crash loses none.
 * SL2  A slot without an owner is used only by the process that made it: it may be half-made.
 * SL3  The route to a slot's address is its claim on the address: the kernel adds it for one agent
 *      only.
 */
import { readdir } from "node:fs/promises";
import { type Link, linkOf, type Range } from "./addresses.ts";
import { command, CommandError, inside } from "./commands.ts";
import {
  type Egress,
  GATEWAY_ADDRESS,
  NAME_SERVER_ADDRESS,
  namespaceRules,
  TAP,
  UPLINK,
} from "./firewall.ts";
import { namespaceName, slotOf, vethName } from "./naming.ts";

/** Settings that all slots of an agent share. */
export interface Plumbing {
  tag: string;
  /** User of VMMs, who owns the taps. */
  uid: number;
  range: Range;
  /** The namespace that leads outside; undefined: the agent's own. */
  uplink: string | undefined;
  /** Undefined: no VM of this host reaches the internet. */
  egress: Egress | undefined;
}

export interface NetworkSlot {
  number: number;
  namespace: string;
  veth: string;
  link: Link;
}

const TAP_MAC = "02:fc:00:00:00:01";
/**
 * Sets up a new namespace: IPv4 is routed, IPv6 is off, and refusals to its one guest are not
 * rate-limited. $1 are commands of ip, $2 rules of nft.
 */
const FURNISH = `
for scope in all default; do
  [ ! -e /proc/sys/net/ipv6/conf/$scope/disable_ipv6 ] || echo 1 > /proc/sys/net/ipv6/conf/$scope/disable_ipv6
done
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
printf '%s' "$1" | ip -batch -
printf '%s' "$2" | nft -f -`;

export function slotAt(plumbing: Plumbing, number: number): NetworkSlot {
  const { tag, range } = plumbing;
  return {
    number,
    namespace: namespaceName(tag, number),
    veth: vethName(tag, number),
    link: linkOf(range, tag, number),
  };
}

/**
 * Makes a slot that lets nothing through. `taken`: another program has its address. Throws if the
 * slot cannot be made. In both cases nothing of the slot is left.
 */
export async function makeSlot(plumbing: Plumbing, slot: NetworkSlot): Promise<"made" | "taken"> {
  const { link, namespace, veth } = slot;
  const outer = [
    `netns add ${namespace}`,
    `link add ${veth} address ${link.hostMac} type veth peer name ${UPLINK} address ${link.guestMac} netns ${namespace}`,
    `link set ${veth} up`,
    `route add ${link.guest}/32 dev ${veth}`,
    `addr add ${link.host}/32 dev ${veth}`,
  ];
  const inner = [
    "link set lo up",
    `tuntap add dev ${TAP} mode tap user ${plumbing.uid} vnet_hdr`,
    `link set ${TAP} address ${TAP_MAC}`,
    `addr add ${GATEWAY_ADDRESS}/24 dev ${TAP}`,
    `addr add ${NAME_SERVER_ADDRESS}/32 dev ${TAP}`,
    `link set ${TAP} up`,
    `addr add ${link.guest}/32 dev ${UPLINK}`,
    `link set ${UPLINK} up`,
    `route add ${link.host}/32 dev ${UPLINK}`,
    `route add default via ${link.host}`,
  ];
  try {
    await command(inside(plumbing.uplink, ["ip", "-batch", "-"]), batch(outer));
    await command(
      inside(namespace, [
        "sh",
        "-euc",
        FURNISH,
        "sh",
        batch(inner),
        namespaceRules(link, undefined),
      ]),
    );
    return "made";
  } catch (error) {
    await removeSlot(plumbing, slot);
    // The fourth of the outer steps is the claim (SL3).
    if (
      error instanceof CommandError &&
      /File exists[\s\S]*Command failed -:4\b/.test(error.stderr)
    )
      return "taken";
    throw error;
  }
}

/** Assigns the slot to the sandbox, with the rules of its VM. */
export async function assignSlot(
  plumbing: Plumbing,
  slot: NetworkSlot,
  owner: string,
  egress: Egress | undefined,
): Promise<void> {
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(owner)) throw new Error(`"${owner}" is no sandbox id`);
  // The alias first: from here on the slot is found as this sandbox's.
  await command(inside(plumbing.uplink, ["ip", "link", "set", slot.veth, "alias", owner]));
  // Without egress the slot has the rules already: a new slot lets nothing through.
  if (egress !== undefined) await setRules(slot, egress);
}

/** Replaces the rules of the slot. */
export async function setRules(slot: NetworkSlot, egress: Egress): Promise<void> {
  await command(inside(slot.namespace, ["nft", "-f", "-"]), namespaceRules(slot.link, egress));
}

/** Removes a slot, or the part of it that exists. Can be repeated. */
export async function removeSlot(plumbing: Plumbing, slot: NetworkSlot): Promise<void> {
  // The link first: if only the namespace were deleted, the link would go later. -force continues
  // when a step has nothing to do.
  const steps = batch([`link del ${slot.veth}`, `netns del ${slot.namespace}`]);
  await command(inside(plumbing.uplink, ["ip", "-force", "-batch", "-"]), steps).catch(
    async (error: unknown) => {
      const left = (await listSlots(plumbing)).some(({ number }) => number === slot.number);
      if (left)
        throw new Error(`the network of slot ${slot.number} cannot be removed`, { cause: error });
    },
  );
}

/** This agent's slots, whole or not; `owner` undefined: none (SL2). */
export async function listSlots(
  plumbing: Plumbing,
): Promise<{ number: number; owner: string | undefined }[]> {
  const found = new Map<number, string | undefined>();
  for (const name of await readdir("/run/netns").catch(() => [])) {
    const number = name.startsWith("torpor-") ? slotOf(plumbing.tag, name) : undefined;
    if (number !== undefined) found.set(number, undefined);
  }
  const links = await command(
    inside(plumbing.uplink, ["ip", "-json", "link", "show", "type", "veth"]),
  );
  for (const { ifname, ifalias } of JSON.parse(links === "" ? "[]" : links) as {
    ifname?: string;
    ifalias?: string;
  }[]) {
    const number = ifname?.startsWith("tv") === true ? slotOf(plumbing.tag, ifname) : undefined;
    if (number !== undefined) found.set(number, ifalias);
  }
  return [...found].map(([number, owner]) => ({ number, owner }));
}

const batch = (lines: string[]) => `${lines.join("\n")}\n`;
