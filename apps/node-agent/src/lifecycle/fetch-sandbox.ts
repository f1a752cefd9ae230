/**
 * Fetches a sandbox that is to run here: straight from the other host while that host lives, else
 * from the store.
 *
 * BR1  The snapshot is assembled beside the sandbox's directory, and stays there when an attempt
 *      fails: the next attempt, of any operation, continues with it.
 * - A copy that this host held before is out of date. Its snapshots are removed before its disk is
 *   replaced: memory is never restored over another disk.
 */
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { jsonDecoder } from "../host/json.ts";
import { fsyncPath, renameDurably, writeDurably } from "../host/files.ts";
import { fetchInto, type FetchSource } from "../store/fetch.ts";
import { sha256Hex } from "../store/format.ts";
import { pacer } from "../store/pace.ts";
import { indexedBy } from "../store/peer.ts";
import { type Step, timed } from "./context.ts";
import type { Outcome } from "./outcome.ts";
import { messageOf } from "@torpor/service";
import { DISK, keepDiskManifest } from "./copies.ts";
import { linkFromImage } from "./disk.ts";
import { decodeManifest, type Manifest } from "./manifest.ts";
import { fetched as afterFetch, Origin, snapshotOf } from "./record.ts";
import { factsOf, removeSnapshots, snapshotDir, unfinishedDir } from "./snapshot.ts";

const decodeOrigin = jsonDecoder(Origin);

/**
 * True if the snapshot that the command names is on this host. Another one, of any generation, is
 * left from before the sandbox moved away.
 */
export function isLocal({ journal, record }: Step): boolean {
  const { snapshot, kind } = journal.command;
  if (snapshot === undefined) return true;
  const from = kind === "start" ? "stopped" : "paused";
  return journal.from === from && snapshotOf(record)?.manifestSha256 === snapshot.manifestSha256;
}

/** Fetches and installs the snapshot. Undefined: done. Otherwise: the outcome of the operation. */
export async function fetchSandbox(step: Step): Promise<Outcome | undefined> {
  const { deps, journal, vm, signal } = step;
  const { snapshot, maxBytesPerSecond } = journal.command;
  if (snapshot === undefined) return undefined;
  const incoming = deps.store.incomingDir(vm.sandboxId, snapshot.manifestSha256);
  const stored = snapshot.storeKey === null ? undefined : deps.snapshots.source(snapshot.storeKey);
  const { sourceUrl } = snapshot;
  const peer =
    sourceUrl === undefined ? undefined : deps.peer(vm.sandboxId, { ...snapshot, sourceUrl });
  const first = peer !== undefined && stored !== undefined ? indexedBy(stored, peer) : peer;
  const sources: FetchSource[] = [first, stored].filter((source) => source !== undefined);
  try {
    const fetched = await timed(step, "fetch_snapshot", () =>
      fetchInto(incoming, sources, {
        manifestSha256: snapshot.manifestSha256,
        signal,
        log: deps.log,
        pace: pacer(() => maxBytesPerSecond, signal),
        onProgress: step.onFetch,
      }),
    );
    await install(
      step,
      incoming,
      fetched.manifest,
      decodeOrigin("the sandbox's record", fetched.record),
    );
    return undefined;
  } catch (error) {
    const [code, message, cancelled] = signal.aborted
      ? [
          "OPERATION_CANCELLED",
          `The ${journal.command.kind} backed out while the snapshot was fetched.`,
          true,
        ]
      : [
          "SNAPSHOT_UNAVAILABLE",
          `The snapshot could not be brought to this host, and is untouched where it is: ${messageOf(error)}`,
          false,
        ];
    return {
      ...withoutIt(step),
      failed: { code, message },
      ...(cancelled ? { cancelled } : {}),
    };
  }
}

/**
 * State on this host after a failed fetch: the state before. A VM of a run that was given up is no
 * longer the sandbox's: the sandbox is at rest, without a copy on this host.
 */
function withoutIt({ journal }: Step): Pick<Outcome, "state" | "isUntouched" | "isElsewhere"> {
  if (journal.from !== "running") return { state: journal.from, isUntouched: true };
  const state = journal.command.kind === "start" ? "stopped" : "paused";
  return { state, isUntouched: true, isElsewhere: true };
}

async function install(step: Step, incoming: string, text: string, origin: Origin): Promise<void> {
  const { deps, vm, record, journal } = step;
  const manifest = decodeManifest(text);
  // Ends a VMM that is left from before the sandbox moved away: its run was given up.
  await deps.driver.end(vm, { graceMs: 0 });
  await removeSnapshots(vm.dir);
  await linkFromImage(deps, manifest.imageSha256, vm.dir, (path) =>
    rename(join(incoming, DISK), path),
  );
  const hasMemory = Object.keys(manifest.files).length > 0;
  if (hasMemory) await installMemory(vm.dir, incoming, manifest, text);
  else await keepDiskManifest(vm.dir, text);
  await rm(incoming, { recursive: true, force: true });
  const state = hasMemory ? "paused" : "stopped";
  const facts = factsOf({ kind: "valid", manifest, manifestSha256: sha256Hex(text) });
  const snapshot = { ...facts, storeKey: journal.command.snapshot?.storeKey ?? null };
  await step.keep(afterFetch(record, origin, snapshot, state));
  journal.from = state;
  await deps.store.writeJournal(vm.sandboxId, journal);
}

async function installMemory(
  vmDir: string,
  incoming: string,
  manifest: Manifest,
  text: string,
): Promise<void> {
  const unfinished = unfinishedDir(vmDir, manifest.generation);
  await rm(unfinished, { recursive: true, force: true });
  await mkdir(unfinished, { mode: 0o700 });
  for (const name of Object.keys(manifest.files))
    await rename(join(incoming, name), join(unfinished, name));
  await writeDurably(join(unfinished, "manifest.json"), text);
  await fsyncPath(unfinished);
  await renameDurably(unfinished, snapshotDir(vmDir, manifest.generation));
}
