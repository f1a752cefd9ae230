/**
 * Who a request is from. A proxy before the gateways says it in headers, which anybody can send:
 * they are believed of the networks of TRUST_PROXY alone.
 */
import type { IncomingMessage } from "node:http";
import { TLSSocket } from "node:tls";
import proxyAddr from "@fastify/proxy-addr";
import { ConfigurationError } from "@torpor/service";
import ipaddr from "ipaddr.js";

type Sent = Pick<IncomingMessage, "headers" | "socket">;

export interface Proxies {
  /** Whether what is said from this address is believed. */
  trusts(address: string): boolean;
  /** The address of the client. */
  clientOf(request: Sent): string;
  /** The client, and the trusted proxies that its request went through: the nearest last. */
  chainOf(request: Sent): string[];
  /** Of the URL that the client asked for; undefined: nobody who is believed says. */
  schemeOf(request: Sent): "http" | "https" | undefined;
}

/** `10.0.0.0/8,fd00::/8`; empty: nobody is believed. Throws ConfigurationError. */
export function createProxies(networks: string): Proxies {
  const trusts = compile(networks);
  const chainOf = (request: Sent) =>
    proxyAddr
      .all(request as IncomingMessage, (address) => trusts(address))
      .filter((address) => address !== undefined)
      .toReversed();
  return {
    trusts,
    chainOf,
    clientOf: (request) => chainOf(request)[0] ?? "",
    schemeOf({ headers, socket }) {
      if (socket instanceof TLSSocket) return "https";
      if (!trusts(socket.remoteAddress ?? "")) return undefined;
      const said = String(headers["x-forwarded-proto"] ?? "").split(",", 1)[0];
      return said === "https" || said === "http" ? said : undefined;
    },
  };
}

function compile(networks: string): (address: string) => boolean {
  const named = networks.split(",").flatMap((network) => network.trim() || []);
  if (named.length === 0) return () => false;
  try {
    const trusts = proxyAddr.compile(named);
    return (address) => trusts(address, 0);
  } catch (cause) {
    const message =
      "invalid configuration: TRUST_PROXY must be addresses or networks such as 10.0.0.0/8, with commas between them";
    throw new ConfigurationError(message, { cause });
  }
}

/**
 * Whose an address is: what one client can easily have many of is one. By IPv6 that is a network of
 * 64 bits, and on this machine all of 127.0.0.0/8.
 */
export function ownerOfAddress(address: string): string {
  // The zone of a link-local address is a name of this machine's, and may be any.
  const [bare = ""] = address.split("%", 1);
  if (!ipaddr.isValid(bare)) return bare;
  const parsed = ipaddr.process(bare);
  if (parsed.range() === "loopback") return "loopback";
  if (!(parsed instanceof ipaddr.IPv6)) return parsed.toString();
  return parsed.parts
    .slice(0, 4)
    .map((part) => part.toString(16))
    .join(":");
}
