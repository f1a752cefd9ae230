/**
 * The nftables rules of a VM's namespace, and those of the uplink.
 *
 * - The rules are in the namespace, where neither the guest nor its VMM can change them, and take
 *   effect as one transaction.
 * FW2  Traffic that no rule allows is dropped: forwarded, to the namespace itself, and from it. A
 *      compromised VMM can reach its guest and nothing else.
 * FW3  The guest sends only from the one address that it was given.
 */
import type { Link } from "./addresses.ts";
import { uplinkTableName } from "./naming.ts";

export const TAP = "tap0";
export const UPLINK = "up0";
/**
 * Prefix of the addresses on every guest's own link. A server on the host's side with such an
 * address cannot be reached from a guest.
 */
export const GUEST_NETWORK = "10.0.2.";
const GUEST_ADDRESS = `${GUEST_NETWORK}15`;
export const GATEWAY_ADDRESS = `${GUEST_NETWORK}2`;
export const NAME_SERVER_ADDRESS = `${GUEST_NETWORK}3`;
export const CONTROL_PORT = 7777;

/**
 * Ranges that no sandbox may reach: this network, private, shared and link-local ranges (metadata
 * services), loopback, benchmarks, multicast, reserved.
 */
const REFUSED_RANGES = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.168.0.0/16",
  "198.18.0.0/15",
  "224.0.0.0/4",
  "240.0.0.0/4",
];
/** Open connections per guest, at most: the connection table is shared by the whole host. */
const MAX_CONNECTIONS = 8_192;

export interface Egress {
  /** Name servers behind 10.0.2.3:53; only these may have private addresses. */
  resolvers: string[];
  /** Range of all VMs' links. */
  range: string;
}

/**
 * Rules that replace all rules of the namespace. `egress` undefined: only replies on control
 * connections leave.
 */
export function namespaceRules(link: Link, egress: Egress | undefined): string {
  return `table inet torpor
delete table inet torpor
table inet torpor {
  counter spoofed { }
  counter refused { }
  set refused_ranges { type ipv4_addr; flags interval; auto-merge; elements = { ${[...REFUSED_RANGES, ...(egress === undefined ? [] : [egress.range])].join(", ")} } }
  chain spoof {
    type filter hook prerouting priority raw; policy accept;
    iifname ${TAP} meta nfproto ipv6 drop
    iifname ${TAP} ip saddr != ${GUEST_ADDRESS} counter name spoofed drop
  }
  chain arrive {
    type nat hook prerouting priority dstnat; policy accept;
    iifname ${UPLINK} ip saddr ${link.host} ip daddr ${link.guest} tcp dport ${CONTROL_PORT} dnat ip to ${GUEST_ADDRESS}
    ${resolverRule(egress)}
  }
  chain pass {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct state invalid drop
    iifname ${UPLINK} oifname ${TAP} ip saddr ${link.host} ip daddr ${GUEST_ADDRESS} tcp dport ${CONTROL_PORT} ct status dnat accept
    ${egressRules(egress)}
    iifname ${TAP} counter name refused reject with icmp type admin-prohibited
  }
  chain leave {
    type nat hook postrouting priority srcnat; policy accept;
    oifname ${UPLINK} masquerade
    oifname ${TAP} snat ip to ${GATEWAY_ADDRESS}
  }
  chain into {
    type filter hook input priority filter; policy drop;
    iifname ${TAP} ip daddr ${GATEWAY_ADDRESS} icmp type echo-request accept
    iifname ${TAP} ip daddr ${NAME_SERVER_ADDRESS} counter name refused reject with icmp type admin-prohibited
  }
  chain own {
    type filter hook output priority filter; policy drop;
    oifname ${TAP} accept
  }
}
`;
}

function resolverRule(egress: Egress | undefined): string {
  const resolvers = egress?.resolvers ?? [];
  if (resolvers.length === 0) return "";
  const map = resolvers.map((address, at) => `${at} : ${address}`).join(", ");
  return `iifname ${TAP} ip daddr ${NAME_SERVER_ADDRESS} meta l4proto { tcp, udp } th dport 53 dnat ip to numgen inc mod ${resolvers.length} map { ${map} }`;
}

function egressRules(egress: Egress | undefined): string {
  if (egress === undefined) return "";
  const out = `iifname ${TAP} oifname ${UPLINK}`;
  return [
    `${out} ct state new ct count over ${MAX_CONNECTIONS} counter name refused drop`,
    `${out} ct original ip daddr ${NAME_SERVER_ADDRESS} meta l4proto { tcp, udp } th dport 53 accept`,
    `${out} ip daddr != @refused_ranges accept`,
  ].join("\n    ");
}

/**
 * Rules of the uplink, where VMs may reach the internet: VMs are hidden behind the host's address,
 * and kept from the host itself and from each other.
 */
export function uplinkRules(tag: string, egress: Egress): string {
  const [table, ours] = [uplinkTableName(tag), `"tv${tag}*"`];
  const resolvers =
    egress.resolvers.length === 0
      ? ""
      : `iifname ${ours} ip daddr { ${egress.resolvers.join(", ")} } meta l4proto { tcp, udp } th dport 53 accept`;
  return `table inet ${table}
delete table inet ${table}
table inet ${table} {
  chain pass {
    type filter hook forward priority filter; policy accept;
    iifname ${ours} oifname "tv*" drop
    iifname ${ours} ip saddr != ${egress.range} drop
    iifname ${ours} meta nfproto ipv6 drop
    oifname ${ours} ct state new drop
  }
  chain leave {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr ${egress.range} oifname != "tv*" masquerade
  }
  chain into {
    type filter hook input priority filter; policy accept;
    iifname ${ours} ct state established,related accept
    ${resolvers}
    iifname ${ours} drop
  }
}
`;
}
