/**
 * Divides the open files of the process among the gateway's parts. A process without free files
 * opens no connection, not even to its database, so the shares are fixed before anything is opened.
 */
import { readFileSync } from "node:fs";
import { ConfigurationError } from "@torpor/service";
import type { GatewayConfig } from "./config.ts";

/** Files of the runtime, logs, the bus, the health port and name look-ups. */
const OWN_FILES = 256;
/** More of each kind are of no use on one machine. */
const MOST_CONNECTIONS = 20_000;
const LEAST_CONNECTIONS = 256;
const MOST_PREVIEW_FILES = 16_000;
const LEAST_PREVIEW_FILES = 1_000;
/** Share of the files above the minimum that goes to connections. */
const SHARE_OF_CONNECTIONS = 0.75;
/** One for the API; at the edge, one to the client and one to the host. */
const FILES_PER_CONNECTION = 3;

export interface OpenFiles {
  /** Connections of all clients, to the API and to the edge each. */
  connections: number;
  /** Files to listen on previews' ports, and for requests to hosts about those ports. */
  previews: number;
}

type Asked = Pick<
  GatewayConfig,
  "CONNECTIONS_MAX" | "CONNECTIONS_PER_ADDRESS" | "DATABASE_POOL_MAX" | "PUBLIC_DOMAIN"
>;

/** Throws ConfigurationError when `limit` is too low for the configuration. */
export function shareOpenFiles(asked: Asked, limit: number): OpenFiles {
  const { CONNECTIONS_MAX: max, CONNECTIONS_PER_ADDRESS: perAddress } = asked;
  const hasPreviews = asked.PUBLIC_DOMAIN === undefined;
  const least = max ?? Math.max(LEAST_CONNECTIONS, perAddress);
  const fixed = OWN_FILES + asked.DATABASE_POOL_MAX + (hasPreviews ? LEAST_PREVIEW_FILES : 0);
  const wanted = fixed + least * FILES_PER_CONNECTION;
  if (limit < wanted) throw new ConfigurationError(tooLow(limit, least, wanted));
  const spare = limit - wanted;
  const share = Math.floor((spare * SHARE_OF_CONNECTIONS) / FILES_PER_CONNECTION);
  const connections = max ?? Math.min(MOST_CONNECTIONS, least + share);
  const left = spare - (connections - least) * FILES_PER_CONNECTION;
  const previews = hasPreviews ? Math.min(MOST_PREVIEW_FILES, LEAST_PREVIEW_FILES + left) : 0;
  return { connections, previews };
}

const tooLow = (limit: number, least: number, wanted: number) =>
  `this process may have ${limit} files open, and ${least} connections to the API and to the edge ` +
  `each, with the pool of the database, need ${wanted}: raise the limit (\`ulimit -n ${wanted}\`, ` +
  `LimitNOFILE=${wanted} of a systemd unit, or --ulimit nofile=${wanted} of a container), or lower ` +
  "CONNECTIONS_MAX or CONNECTIONS_PER_ADDRESS";

/** The soft limit of this process, which the runtime has raised to the hard one. */
export function openFileLimit(limits = readFileSync("/proc/self/limits", "utf8")): number {
  const soft = /^Max open files\s+(\d+|unlimited)/m.exec(limits)?.[1];
  if (soft === undefined) throw new Error("/proc/self/limits names no limit of open files");
  return soft === "unlimited" ? Number.MAX_SAFE_INTEGER : Number(soft);
}
