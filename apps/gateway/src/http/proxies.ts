/**
 * The client of a request. A proxy in front of the gateways names the client in headers, which any
 * client can send: only those from the networks of TRUST_PROXY are trusted.
 */
import type { IncomingMessage } from "node:http";
import { TLSSocket } from "node:tls";
import proxyAddr from "@fastify/proxy-addr";
import { ConfigurationError } from "@torpor/service";
import ipaddr from "ipaddr.js";

type Sent = Pick<IncomingMessage, "headers" | "socket">;

export interface Proxies {
  /** True if headers from this address are trusted. */
  trusts(address: string): boolean;
  /** The address of the client. */
  clientOf(request: Sent): string;
  /** The client, and the trusted proxies that its request went through: the nearest last. */
  chainOf(request: Sent): string[];
  /** Scheme of the URL that the client requested; undefined: no trusted source names it. */
  schemeOf(request: Sent): "http" | "https" | undefined;
}

/** `networks`: `10.0.0.0/8,fd00::/8`; empty: no address is trusted. Throws ConfigurationError. */
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
 * The owner of an address: addresses of which one client can easily have many are one owner. With
 * IPv6 that is a network of 64 bits, and on this machine all of 127.0.0.0/8.
 */
export function ownerOfAddress(address: string): string {
  // The zone of a link-local address is the name of a local interface, in any form.
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
