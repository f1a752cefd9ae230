/** A snapshot on another host, fetched through its data plane (snapshot-server.ts there). */
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import {
  DATA_PLANE_HEADERS,
  type SandboxId,
  SNAPSHOT_PATH,
  type SnapshotReference,
} from "@torpor/contracts";
import { type FleetTls, requestTo } from "@torpor/identity";
import type { FetchSource } from "./fetch.ts";
import { CHUNK_BYTES, decodeIndex } from "./format.ts";

/**
 * To make an index, the other host first reads and hashes the whole snapshot. If the store has the
 * snapshot too, a host that hangs is not waited for.
 */
const LIMITS = {
  alone: { indexMs: 280_000, chunkMs: 60_000 },
  stored: { indexMs: 10_000, chunkMs: 10_000 },
};

/** Incompressible content grows a little. */
const MAX_CHUNK_BYTES = 2 * CHUNK_BYTES;
/** An index has some hundred bytes for each chunk. */
const MAX_INDEX_BYTES = 256 * 1024 ** 2;
const MAX_REFUSAL_BYTES = 64 * 1024;

/** Credentials that the other host may require. */
export interface PeerKeys {
  /** Key in fleets with hosts of 0.1.0, which know no tickets. */
  hostKey?: string | undefined;
  tls?: FleetTls | undefined;
}

export type PeerReference = SnapshotReference & { sourceUrl: string };

export function peerSource(
  sandboxId: SandboxId,
  reference: PeerReference,
  keys: PeerKeys = {},
): FetchSource {
  const {
    generation,
    manifestSha256,
    storeKey,
    sourceUrl,
    sourceHostId = "",
    sourceTicket,
  } = reference;
  const { indexMs, chunkMs } = storeKey === null ? LIMITS.alone : LIMITS.stored;
  const base = new URL(`${SNAPSHOT_PATH}${sandboxId}/${generation}/${manifestSha256}/`, sourceUrl);
  const to = { tls: keys.tls, expected: { role: "host", hostId: sourceHostId } } as const;
  const key = sourceTicket === undefined ? keys.hostKey : undefined;
  const headers = {
    ...(sourceTicket === undefined ? {} : { [DATA_PLANE_HEADERS.ticket]: sourceTicket }),
    ...(key === undefined ? {} : { [DATA_PLANE_HEADERS.hostKey]: key }),
  };
  const get = async (
    path: string,
    { limitMs, maxBytes }: { limitMs: number; maxBytes: number },
    signal: AbortSignal,
  ) => {
    const url = new URL(path, base);
    const limit = AbortSignal.any([signal, AbortSignal.timeout(limitMs)]);
    const request = requestTo(url, to, { path: url.pathname, headers, signal: limit });
    request.end();
    const [answer] = (await once(request, "response", { signal: limit })) as [IncomingMessage];
    const isGiven = answer.statusCode === 200;
    const content = await contentOf(answer, isGiven ? maxBytes : MAX_REFUSAL_BYTES);
    if (!isGiven)
      throw new Error(
        `the host at ${sourceUrl} answered ${answer.statusCode}: ${content.toString().slice(0, 500)}`,
      );
    return content;
  };
  return {
    name: `the host at ${sourceUrl}`,
    index: async (signal) =>
      decodeIndex(await get("index", { limitMs: indexMs, maxBytes: MAX_INDEX_BYTES }, signal)),
    chunk: async (file, [at], signal) => {
      const path = `chunks/${at}/${encodeURIComponent(file)}`;
      return await get(path, { limitMs: chunkMs, maxBytes: MAX_CHUNK_BYTES }, signal);
    },
  };
}

/** Bounded, because another host may send anything, without end. */
async function contentOf(answer: IncomingMessage, maxBytes: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of answer as AsyncIterable<Buffer>) {
    size += part.length;
    if (size > maxBytes) throw new Error(`its answer is longer than ${maxBytes} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts);
}

/**
 * `peer` with the index that the store has of the same snapshot: it names the same chunks, and no
 * host has to hash them first. If the store does not reply, the peer's own index is used, which the
 * peer continues to make between the attempts.
 */
export function indexedBy(stored: FetchSource, peer: FetchSource): FetchSource {
  const index = async (signal: AbortSignal) => {
    try {
      return await stored.index(
        AbortSignal.any([signal, AbortSignal.timeout(LIMITS.stored.indexMs)]),
      );
    } catch {
      signal.throwIfAborted();
      return await peer.index(signal);
    }
  };
  return { ...peer, index };
}
