/** A snapshot on another host, fetched through its data plane (snapshot-door.ts there). */
import { DATA_PLANE_HEADERS, SNAPSHOT_PATH, type SnapshotReference } from "@torpor/contracts";
import type { SnapshotSource } from "./fetch.ts";
import { decodeIndex } from "./format.ts";

/** For an index the other host reads and hashes all of it first. Where the store has it too, a host that hangs is not waited for. */
const LIMITS = { alone: { indexMs: 280_000, chunkMs: 60_000 }, stored: { indexMs: 10_000, chunkMs: 10_000 } };

export function peerSource(sourceUrl: string, hostKey: string, sandboxId: string, reference: SnapshotReference): SnapshotSource {
  const { generation, manifestSha256, storeKey } = reference;
  const { indexMs, chunkMs } = storeKey === null ? LIMITS.alone : LIMITS.stored;
  const base = new URL(`${SNAPSHOT_PATH}${sandboxId}/${generation}/${manifestSha256}/`, sourceUrl);
  const get = async (path: string, limitMs: number, signal: AbortSignal) => {
    const response = await fetch(new URL(path, base), {
      headers: { [DATA_PLANE_HEADERS.hostKey]: hostKey },
      signal: AbortSignal.any([signal, AbortSignal.timeout(limitMs)]),
    });
    if (!response.ok) throw new Error(`the host at ${sourceUrl} answered ${response.status}: ${(await response.text()).slice(0, 500)}`);
    return Buffer.from(await response.arrayBuffer());
  };
  return {
    name: `the host at ${sourceUrl}`,
    index: async (signal) => decodeIndex(await get("index", indexMs, signal)),
    chunk: async (file, [at], signal) => await get(`chunks/${at}/${encodeURIComponent(file)}`, chunkMs, signal),
  };
}

/**
 * `peer` by the index that the store has of the same snapshot: it names the same chunks, and nobody has to hash them first. While the store does not answer, by the host's own, which that goes on
 * making over the tries.
 */
export function indexedBy(stored: SnapshotSource, peer: SnapshotSource): SnapshotSource {
  const index = async (signal: AbortSignal) => {
    try {
      return await stored.index(AbortSignal.any([signal, AbortSignal.timeout(LIMITS.stored.indexMs)]));
    } catch {
      signal.throwIfAborted();
      return await peer.index(signal);
    }
  };
  return { ...peer, index };
}
