/** A snapshot on another host, fetched through its data plane (snapshot-door.ts there). */
import { DATA_PLANE_HEADERS, SNAPSHOT_PATH, type SnapshotReference } from "@torpor/contracts";
import type { SnapshotSource } from "./fetch.ts";
import { decodeIndex } from "./format.ts";

/** The other host reads and hashes all of it first. Where the store has it too, a host that hangs is not waited for. */
const INDEX_LIMIT_MS = { alone: 280_000, stored: 10_000 };
const CHUNK_LIMIT_MS = 60_000;

export function peerSource(sourceUrl: string, hostKey: string, sandboxId: string, reference: SnapshotReference): SnapshotSource {
  const { generation, manifestSha256, storeKey } = reference;
  const indexLimitMs = storeKey === null ? INDEX_LIMIT_MS.alone : INDEX_LIMIT_MS.stored;
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
    index: async (signal) => decodeIndex(await get("index", indexLimitMs, signal)),
    chunk: async (file, [at], signal) => await get(`chunks/${at}/${encodeURIComponent(file)}`, CHUNK_LIMIT_MS, signal),
  };
}
