/** The suite of the snapshot store, on a directory and on a real S3 server. */
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { mkdir, readdir, truncate, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { newSandboxId, type SandboxId } from "@torpor/contracts";
import { type S3Server, silentLog, startS3, tempDir, until } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { SnapshotServer } from "../src/data-plane/snapshot-server.ts";
import type { Blobs } from "../src/store/blobs.ts";
import { openBlobs, storeSettings } from "../src/store/choose.ts";
import { ChunkStore } from "../src/store/chunk-store.ts";
import { fetchInto, type FetchSource } from "../src/store/fetch.ts";
import { entryKey, entryName, sweepingLock, writingLock } from "../src/store/format.ts";
import { indexedBy, peerSource } from "../src/store/peer.ts";
import { S3Blobs } from "../src/store/s3-blobs.ts";
import { keepSwept, sweep } from "../src/store/sweep.ts";
import {
  AgedLocks,
  allocatedBytes,
  CHUNK,
  facts,
  fileBlobs,
  type MadeSnapshot,
  makeSnapshot,
  WatchedBlobs,
} from "./support/snapshots.ts";

const never = new AbortController().signal;
let root: Awaited<ReturnType<typeof tempDir>>;
let s3: S3Server;
beforeAll(async () => {
  root = await tempDir();
  s3 = await startS3();
});
afterAll(async () => {
  await s3[Symbol.asyncDispose]();
  await root[Symbol.asyncDispose]();
});

/** Longer than a sweep takes. */
const GRACE_MS = 5_000;
let made = 0;
const newDir = () => join(root.path, `dir-${(made += 1)}`);
/** Small pages, so that most listings have several. */
const s3Blobs = (prefix: string) => {
  const { endpoint, bucket, credentials } = s3;
  return new S3Blobs({ endpoint, region: "us-east-1", bucket, prefix, credentials, pageSize: 3 });
};
const KINDS: [string, () => Blobs][] = [
  ["file", () => fileBlobs(newDir())],
  ["s3", () => s3Blobs(`fleet-${(made += 1)}/`)],
];

describe.each(KINDS)("the %s store", (_kind, open) => {
  let blobs: WatchedBlobs;
  let store: ChunkStore;
  let sandboxId: SandboxId;
  beforeEach(() => {
    blobs = new WatchedBlobs(open());
    store = new ChunkStore(blobs, CHUNK);
    sandboxId = newSandboxId();
  });

  const put = (snapshot: MadeSnapshot, signal = never) => store.put(snapshot.copy, { signal });
  const fetch = async (
    snapshot: MadeSnapshot,
    sources: FetchSource[],
    dir = newDir(),
    signal = never,
  ) => {
    await fetchInto(dir, sources, {
      manifestSha256: snapshot.manifestSha256,
      signal,
      log: silentLog(),
    });
    return dir;
  };
  const isWhole = async (snapshot: MadeSnapshot, dir: string) => {
    const arrived = Object.fromEntries(
      Object.keys(snapshot.copy.files).map((name) => [name, join(dir, name)]),
    );
    expect(await facts(arrived)).toEqual(await facts(snapshot.copy.files));
  };
  const keys = async (below: string) => {
    const found: string[] = [];
    for await (const { key } of blobs.list(`${sandboxId}/${below}`, never)) found.push(key);
    return found.toSorted();
  };

  test("gives back what was put, and keeps no hole: neither in the store nor on disk", async () => {
    const snapshot = await makeSnapshot(newDir(), { sandboxId });
    const progress: number[] = [];
    const storeKey = await store.put(snapshot.copy, {
      signal: never,
      onProgress: ({ bytesDone }) => progress.push(bytesDone),
    });
    expect(storeKey).toBe(`${sandboxId}/${entryName(1, snapshot.manifestSha256)}`);
    expect(blobs.sent(), "4 of memory, 4 of 64 of the disk").toHaveLength(8);
    expect(progress.at(-1)).toBe(8 * CHUNK);
    const dir = await fetch(snapshot, [store.source(storeKey)]);
    await isWhole(snapshot, dir);
    expect(await allocatedBytes(join(dir, "disk.raw"))).toBeLessThanOrEqual(8 * CHUNK);
    expect(await keys("locks/")).toEqual([]);
  });

  test("SF2: does not send what it has: the next snapshot costs what has changed, a repeat nothing", async () => {
    const first = await makeSnapshot(newDir(), { sandboxId });
    await put(first);
    blobs.forget();
    await put(first);
    expect(blobs.sent()).toEqual([]);
    const second = await makeSnapshot(newDir(), {
      sandboxId,
      generation: 2,
      disk: [0, 7, 8, 40, 41],
    });
    const storeKey = await put(second);
    expect(blobs.sent()).toHaveLength(1);
    await isWhole(second, await fetch(second, [store.source(storeKey)]));
    expect(await keys("entries/")).toHaveLength(2);
  });

  test("S5, SF1: a put that is ended has no entry; the next one sends the rest, and not one chunk twice", async () => {
    const snapshot = await makeSnapshot(newDir(), { sandboxId, memory: 12 });
    const abort = new AbortController();
    blobs.before = (call, key) => {
      if (call === "put" && key.includes("/chunks/") && blobs.sent().length === 5) abort.abort();
    };
    await expect(put(snapshot, abort.signal)).rejects.toThrow(/abort/i);
    const before = (await keys("chunks/")).length;
    expect(before).toBeGreaterThanOrEqual(5);
    expect(await keys("entries/")).toEqual([]);
    blobs.forget();
    const storeKey = await put(snapshot);
    expect(blobs.sent()).toHaveLength(16 - before);
    await isWhole(snapshot, await fetch(snapshot, [store.source(storeKey)]));
  });

  test("SF1: each step of a put may fail once, and each may be done twice: the same entry in the end", async () => {
    const snapshot = await makeSnapshot(newDir(), { sandboxId, memory: 2, disk: [3] });
    await put(snapshot);
    const steps = blobs.calls.length;
    const indexStep =
      blobs.calls.findIndex(({ call, key }) => call === "put" && key.includes("/entries/")) + 1;
    const whole = [await keys("entries/"), await keys("chunks/")];
    for (let failing = 1; failing <= steps; failing += 1) {
      await store.remove(sandboxId, never);
      blobs.forget();
      let calls = 0;
      blobs.before = () => {
        calls += 1;
        if (calls === failing) throw new Error("made to fail");
      };
      // A lock that stays at the end is no failure.
      const failed = await put(snapshot).then(
        () => undefined,
        (error: Error) => error.message,
      );
      expect([undefined, "made to fail"]).toContain(failed);
      expect(await keys("entries/"), `step ${failing}`).toHaveLength(failing > indexStep ? 1 : 0);
      blobs.before = () => {};
      await put(snapshot);
      expect([await keys("entries/"), await keys("chunks/")], `step ${failing}`).toEqual(whole);
    }
  });

  test("S42, FT1: a fetch that breaks off goes on with what has arrived, also from the other source", async () => {
    const snapshot = await makeSnapshot(newDir(), { sandboxId, memory: 12 });
    const storeKey = await put(snapshot);
    const dir = newDir();
    const abort = new AbortController();
    blobs.before = (call, key) => {
      if (call === "get" && key.includes("/chunks/") && blobs.got().length === 6) abort.abort();
    };
    await expect(fetch(snapshot, [store.source(storeKey)], dir, abort.signal)).rejects.toThrow(
      /abort/i,
    );
    const arrived = blobs.got().length;
    blobs.forget();
    const host = await startHost(snapshot);
    try {
      await fetch(snapshot, [host.source, store.source(storeKey)], dir);
      await isWhole(snapshot, dir);
      // Chunks that were under way at the abort may be fetched again.
      expect(host.chunks()).toBeGreaterThanOrEqual(16 - arrived);
      expect(host.chunks()).toBeLessThanOrEqual(16 - arrived + 4);
      expect(blobs.got()).toEqual([]);
    } finally {
      host.close();
    }
  });

  test("the other host ends in the middle: the store gives the rest, and a bad answer costs nothing but itself", async () => {
    const snapshot = await makeSnapshot(newDir(), { sandboxId, memory: 12 });
    const storeKey = await put(snapshot);
    const host = await startHost(snapshot, { endsAfter: 7 });
    try {
      blobs.forget();
      const dir = await fetch(snapshot, [host.source, store.source(storeKey)]);
      await isWhole(snapshot, dir);
      expect(blobs.got()).toHaveLength(16 - 7);
    } finally {
      host.close();
    }
  });

  test("with the index of the store, the other host is asked for chunks alone; with its own while the store is away", async () => {
    const snapshot = await makeSnapshot(newDir(), { sandboxId });
    const storeKey = await put(snapshot);
    const host = await startHost(snapshot);
    const source = indexedBy(store.source(storeKey), host.source);
    try {
      await isWhole(snapshot, await fetch(snapshot, [source]));
      expect([host.indexes(), host.chunks()]).toEqual([0, 8]);
      blobs.before = () => {
        throw new Error("the store is away");
      };
      await isWhole(snapshot, await fetch(snapshot, [source]));
      expect([host.indexes(), host.chunks()]).toEqual([1, 16]);
    } finally {
      host.close();
    }
  });

  describe("what is damaged", () => {
    let snapshot: MadeSnapshot;
    let storeKey: string;
    beforeEach(async () => {
      snapshot = await makeSnapshot(newDir(), { sandboxId });
      storeKey = await put(snapshot);
    });
    const damage = async (key: string, change: (content: Buffer) => Buffer) => {
      const content = await blobs.get(key, never);
      if (content === undefined) throw new Error(`there is no ${key}`);
      await blobs.put(key, change(content), never);
    };
    const oneChunk = async () => (await keys("chunks/"))[3] ?? "";
    const flipped = (content: Buffer) => {
      const changed = Buffer.from(content);
      const at = changed.length >> 1;
      changed[at] = (changed[at] ?? 0) ^ 1;
      return changed;
    };

    test.each([
      ["flipped", flipped, /is damaged/],
      ["cut off", (content: Buffer) => content.subarray(0, content.length - 9), /is damaged/],
      ["empty", () => Buffer.alloc(0), /is damaged/],
    ])("a chunk that is %s is refused by name", async (_what, change, message) => {
      await damage(await oneChunk(), change);
      await expect(fetch(snapshot, [store.source(storeKey)])).rejects.toThrow(message);
    });

    test("a chunk that is missing is refused by name, and a host that has it makes it good", async () => {
      const dir = newDir();
      await blobs.remove(await oneChunk(), never);
      await expect(fetch(snapshot, [store.source(storeKey)], dir)).rejects.toThrow(
        /is missing in the store/,
      );
      const host = await startHost(snapshot);
      try {
        await fetch(snapshot, [store.source(storeKey), host.source], dir);
        await isWhole(snapshot, dir);
      } finally {
        host.close();
      }
    });

    test("S4: a chunk that was cut off is not taken for one that is there: the next put sends it again", async () => {
      await damage(await oneChunk(), (content) => content.subarray(0, 20));
      blobs.forget();
      await put(snapshot);
      expect(blobs.sent()).toHaveLength(1);
      await isWhole(snapshot, await fetch(snapshot, [store.source(storeKey)]));
    });

    test("FT2: an index that is damaged, another one, or none is refused", async () => {
      const key = entryKey(storeKey);
      const other = await makeSnapshot(newDir(), { sandboxId, generation: 1, seed: "another run" });
      const otherKey = await put(other);
      await expect(fetch(snapshot, [store.source(otherKey)])).rejects.toThrow(
        /another snapshot than the one that was recorded/,
      );
      await damage(key, flipped);
      await expect(fetch(snapshot, [store.source(storeKey)])).rejects.toThrow(
        /index of the snapshot is damaged/,
      );
      await blobs.remove(key, never);
      await expect(fetch(snapshot, [store.source(storeKey)])).rejects.toThrow(
        `the store has no snapshot ${storeKey}`,
      );
    });

    test("bytes on this host's disk that are not what they should be are fetched again", async () => {
      const dir = await fetch(snapshot, [store.source(storeKey)]);
      await truncate(join(dir, "memory"), 1000);
      await writeFile(join(dir, "disk.raw"), "garbage", { flag: "r+" });
      blobs.forget();
      await fetch(snapshot, [store.source(storeKey)], dir);
      await isWhole(snapshot, dir);
      expect(blobs.got(), "4 of memory, 1 of the disk").toHaveLength(5);
    });
  });

  describe("a sweep", () => {
    const swept = (options: { garbage?: string[]; deleted?: SandboxId[]; graceMs?: number }) =>
      sweep(blobs, {
        graceMs: options.graceMs ?? -60_000,
        ask: async () => ({ deleted: options.deleted ?? [], storeKeys: options.garbage ?? [] }),
        signal: never,
      });
    let [first, second]: MadeSnapshot[] = [];
    let [firstKey, secondKey]: string[] = [];
    beforeEach(async () => {
      first = await makeSnapshot(newDir(), { sandboxId, disk: [0, 1, 2] });
      second = await makeSnapshot(newDir(), { sandboxId, generation: 2, disk: [2, 3] });
      [firstKey, secondKey] = [await put(first), await put(second)];
    });
    const isThere = async (snapshot: MadeSnapshot | undefined, key: string | undefined) => {
      if (snapshot === undefined || key === undefined) throw new Error("it was not made");
      await isWhole(snapshot, await fetch(snapshot, [store.source(key)]));
    };

    test("removes an entry that is for nothing with the chunks that it alone names, and nothing else", async () => {
      expect(await swept({ garbage: [firstKey ?? ""] })).toEqual({
        sandboxes: 0,
        entries: 1,
        chunks: 2,
      });
      expect(await keys("entries/")).toEqual([entryKey(secondKey ?? "")]);
      await isThere(second, secondKey);
      expect(await keys("locks/")).toEqual([]);
    });

    test("SW1, SW3: leaves what nobody names as garbage, and what is young", async () => {
      expect(await swept({})).toMatchObject({ entries: 0, chunks: 0 });
      expect(await swept({ garbage: [firstKey ?? ""], graceMs: 60_000 })).toMatchObject({
        entries: 0,
        chunks: 0,
      });
      await isThere(first, firstKey);
      await isThere(second, secondKey);
    });

    test("SW2: takes nothing from what is being written, and a put waits for a sweep to end", async () => {
      // Old enough to be removed, without the lock.
      await sleep(GRACE_MS + 1_000);
      await blobs.put(writingLock(sandboxId, "3-abc", "writer"), Buffer.from("x"), never);
      expect(await swept({ garbage: [firstKey ?? ""], graceMs: GRACE_MS })).toMatchObject({
        entries: 0,
        chunks: 0,
      });
      await isThere(first, firstKey);
      await blobs.remove(writingLock(sandboxId, "3-abc", "writer"), never);
      expect(await swept({ garbage: [firstKey ?? ""], graceMs: GRACE_MS })).toMatchObject({
        entries: 1,
        chunks: 2,
      });
      await blobs.put(sweepingLock(sandboxId, "other"), Buffer.from("x"), never);
      const third = await makeSnapshot(newDir(), { sandboxId, generation: 3 });
      await expect(put(third)).rejects.toThrow(/being swept; try again/);
      expect(await keys("locks/")).toEqual([sweepingLock(sandboxId, "other")]);
    });

    test("is not over for a put because another sweep of the sandbox is", async () => {
      // Needs chunks that only the first snapshot names.
      const third = await makeSnapshot(newDir(), { sandboxId, generation: 3, disk: [0, 1, 60] });
      const begun: {
        other?: ReturnType<typeof swept>;
        put?: Promise<string>;
        both?: Promise<unknown>;
      } = {};
      blobs.before = (call, key) => {
        // In the middle of one sweep another one begins and ends; then a put begins.
        if (call !== "remove" || !key.includes("/entries/")) return;
        begun.both ??= (async () => {
          begun.other = swept({ garbage: [firstKey ?? ""], graceMs: 60_000 });
          await begun.other;
          begun.put = put(third);
          await begun.put.catch(() => {});
        })();
        return begun.both.then(() => {});
      };
      expect(await swept({ garbage: [firstKey ?? ""] })).toMatchObject({ entries: 1, chunks: 2 });
      expect(await begun.other).toMatchObject({ entries: 0, chunks: 0 });
      await expect(begun.put).rejects.toThrow(/being swept; try again/);
      expect(await keys("locks/")).toEqual([]);
      blobs.forget();
      await isThere(third, await put(third));
      await isThere(second, secondKey);
    });

    test("takes a sweep that is long over for dead, and its lock away", async () => {
      await blobs.put(sweepingLock(sandboxId, "other"), Buffer.from("x"), never);
      expect(await swept({ garbage: [firstKey ?? ""] })).toMatchObject({ entries: 0, chunks: 0 });
      expect(await keys("locks/")).toEqual([sweepingLock(sandboxId, "other")]);
      const { entries } = await sweep(new AgedLocks(blobs, 1_000_000, "sweeping.other"), {
        graceMs: -60_000,
        ask: async () => ({ deleted: [], storeKeys: [firstKey ?? ""] }),
        signal: never,
      });
      expect(entries).toBe(1);
      expect(await keys("locks/")).toEqual([]);
    });

    test("that is ended leaves no lock behind", async () => {
      const abort = new AbortController();
      blobs.before = (call, key) => {
        if (call === "remove" && key.includes("/chunks/")) abort.abort();
      };
      const ended = sweep(blobs, {
        graceMs: -60_000,
        ask: async () => ({ deleted: [], storeKeys: [firstKey ?? ""] }),
        signal: abort.signal,
      });
      await ended.catch((error: Error) => expect(error.message).toMatch(/abort/i));
      expect(abort.signal.aborted).toBe(true);
      expect(await keys("locks/")).toEqual([]);
    });

    test("SW4: says again that it goes on, so that no other host begins one", async () => {
      const abort = new AbortController();
      const markedAtMs = async () => {
        for await (const { modifiedAtMs } of blobs.list("sweep/", never)) return modifiedAtMs;
        return undefined;
      };
      let isMarkedAgain = false;
      await keepSwept(blobs, {
        everyMs: 1_000,
        graceMs: 60_000,
        ask: async () => {
          const begunAtMs = Number(await markedAtMs());
          const again = until(
            "the mark is set again",
            async () => Number(await markedAtMs()) > begunAtMs,
            10_000,
          );
          isMarkedAgain = await again.then(
            () => true,
            () => false,
          );
          abort.abort();
          return undefined;
        },
        signal: abort.signal,
        log: silentLog(),
      });
      expect(isMarkedAgain).toBe(true);
    });

    test.each([
      ["before its index", "/chunks/"],
      ["while it puts its index", "/entries/"],
    ])(
      "that took a put for dead, which stood still for long: the put says so %s, and its repeat is whole",
      async (_, at) => {
        // Needs chunks that only the first snapshot names.
        const third = await makeSnapshot(newDir(), { sandboxId, generation: 3, disk: [0, 1, 60] });
        let sweeping: Promise<unknown> | undefined;
        blobs.before = (call, key) => {
          if (call !== "put" || !key.includes(at)) return;
          const aged = new AgedLocks(blobs, 1_000_000);
          sweeping ??= sweep(aged, {
            graceMs: -60_000,
            ask: async () => ({ deleted: [], storeKeys: [firstKey ?? ""] }),
            signal: never,
          });
          return sweeping.then(() => {});
        };
        await expect(put(third)).rejects.toThrow(/was swept meanwhile; try again/);
        expect(await keys("entries/")).toHaveLength(at === "/chunks/" ? 1 : 2);
        expect(await keys("locks/")).toEqual([]);
        blobs.forget();
        await isThere(third, await put(third));
        await isThere(second, secondKey);
      },
    );

    test("takes nothing from two puts of one snapshot when the first of them ends", async () => {
      const third = await makeSnapshot(newDir(), { sandboxId, generation: 3, disk: [0, 1, 60] });
      const begun: { other?: Promise<string>; sweep?: ReturnType<typeof swept> } = {};
      blobs.before = (call, key) => {
        // In the middle of one put another one begins and ends; then a sweep begins.
        if (call !== "put" || !key.includes("/chunks/") || begun.other !== undefined) return;
        begun.other = put(third);
        begun.sweep = begun.other.then(() => swept({ garbage: [firstKey ?? ""] }));
        return begun.sweep.then(() => {});
      };
      const storeKey = await put(third);
      expect(await begun.sweep).toMatchObject({ entries: 0, chunks: 0 });
      expect(await begun.other).toBe(storeKey);
      await isThere(third, storeKey);
      expect(await keys("locks/")).toEqual([]);
    });

    test("removes no chunk while an entry cannot be read", async () => {
      await blobs.put(entryKey(secondKey ?? ""), Buffer.from("no index"), never);
      await expect(swept({ garbage: [firstKey ?? ""] })).rejects.toThrow(/damaged/);
      expect(await keys("entries/")).toHaveLength(2);
      await isThere(first, firstKey);
    });

    test("SF3: removes all of a sandbox that is deleted, and nothing of its neighbour", async () => {
      const neighbour = await makeSnapshot(newDir(), { sandboxId: newSandboxId() });
      const neighbourKey = await put(neighbour);
      expect(await swept({ deleted: [sandboxId] })).toMatchObject({ sandboxes: 1 });
      expect(await keys("")).toEqual([]);
      await isThere(neighbour, neighbourKey);
    });
  });

  test("a sandbox that is removed leaves nothing, and is removed again without complaint", async () => {
    await put(await makeSnapshot(newDir(), { sandboxId }));
    await store.remove(sandboxId, never);
    expect(await keys("")).toEqual([]);
    await store.remove(sandboxId, never);
  });
});

describe("the server that speaks S3", () => {
  afterEach(async () => {
    await s3.stop();
    await s3.start();
  });

  test("goes away in the middle and comes back: nothing is lost, and what had arrived is not sent again", async () => {
    const blobs = new WatchedBlobs(s3Blobs("outage/"));
    const store = new ChunkStore(blobs, CHUNK);
    const snapshot = await makeSnapshot(newDir(), { sandboxId: newSandboxId(), memory: 12 });
    let stopped: Promise<void> | undefined;
    blobs.before = (call, key) => {
      if (call === "put" && key.includes("/chunks/") && blobs.sent().length === 6)
        stopped ??= s3.stop();
    };
    await expect(store.put(snapshot.copy, { signal: never })).rejects.toThrow(
      /ECONNREFUSED|ECONNRESET|socket|hang up|EPIPE/i,
    );
    await stopped;
    await s3.start();
    blobs.forget();
    const storeKey = await store.put(snapshot.copy, { signal: never });
    expect(blobs.sent().length).toBeLessThan(16);
    const dir = newDir();
    await fetchInto(dir, [store.source(storeKey)], {
      manifestSha256: snapshot.manifestSha256,
      signal: never,
      log: silentLog(),
    });
    const arrived = { memory: join(dir, "memory"), "disk.raw": join(dir, "disk.raw") };
    expect(await facts(arrived)).toEqual(await facts(snapshot.copy.files));
  });
});

describe("a directory that is not there", () => {
  test("FB1: is not made: what would be put there is refused, until somebody mounts it", async () => {
    const dir = newDir();
    const opened = await openBlobs({ kind: "file", dir });
    if (opened.blobs === undefined) throw new Error("it was not opened");
    const store = new ChunkStore(opened.blobs, CHUNK);
    const { copy } = await makeSnapshot(newDir(), { sandboxId: newSandboxId() });
    expect(await opened.problem()).toMatch(
      /SNAPSHOT_STORE_DIR .* cannot be written to .*: make it and mount it, or correct the variable/,
    );
    await expect(store.put(copy, { signal: never })).rejects.toThrow(
      `${dir} is not there: make it and mount it`,
    );
    expect(await readdir(root.path)).not.toContain(basename(dir));
    await mkdir(dir);
    expect(await opened.problem()).toBeUndefined();
    expect(await readdir(dir)).toEqual([]);
    await store.put(copy, { signal: never });
  });
});

describe("the configuration", () => {
  const base = { SNAPSHOT_STORE: "s3", S3_REGION: "us-east-1", S3_PREFIX: "" } as const;

  test("what cannot work is refused at once, by the name of the variable", async () => {
    expect(() => storeSettings(base)).toThrow("S3_BUCKET is not set");
    expect(() => storeSettings({ ...base, SNAPSHOT_STORE: "file" })).toThrow(
      "SNAPSHOT_STORE_DIR is not set",
    );
    const file = join(root.path, "credentials.json");
    expect(() => storeSettings({ ...base, S3_BUCKET: "b", S3_CREDENTIALS_FILE: file })).toThrow(
      /credentials.json cannot be read/,
    );
    await writeFile(file, "secret");
    expect(() => storeSettings({ ...base, S3_BUCKET: "b", S3_CREDENTIALS_FILE: file })).toThrow(
      /is not of the form/,
    );
  });

  test("what does not work now is said in words that say what to do", async () => {
    const file = join(root.path, "credentials.json");
    await writeFile(file, JSON.stringify(s3.credentials));
    const given = {
      ...base,
      S3_ENDPOINT: s3.endpoint,
      S3_BUCKET: s3.bucket,
      S3_CREDENTIALS_FILE: file,
    };
    const problem = async (config: Parameters<typeof storeSettings>[0]) =>
      await (await openBlobs(storeSettings(config))).problem();
    expect(await problem(given)).toBeUndefined();
    expect(await problem({ ...given, S3_BUCKET: "elsewhere" })).toMatch(
      /no bucket "elsewhere": make it, or correct S3_BUCKET/,
    );
    await writeFile(file, JSON.stringify({ ...s3.credentials, secretAccessKey: "wrong" }));
    expect(await problem(given)).toMatch(/correct S3_CREDENTIALS_FILE/);
    expect(await problem({ ...given, S3_ENDPOINT: "http://127.0.0.1:1" })).toMatch(
      /cannot be reached: start it, or correct S3_ENDPOINT/,
    );
    const notADirectory = join(root.path, "a-file");
    await writeFile(notADirectory, "");
    expect(
      await problem({ ...base, SNAPSHOT_STORE: "file", SNAPSHOT_STORE_DIR: notADirectory }),
    ).toMatch(/SNAPSHOT_STORE_DIR/);
    expect(await readdir(root.path)).toContain("a-file");
  });
});

/** A host that holds the snapshot; after `endsAfter` chunks it breaks every connection. */
async function startHost(snapshot: MadeSnapshot, { endsAfter = Number.POSITIVE_INFINITY } = {}) {
  const { sandboxId, generation } = snapshot.copy;
  const door = new SnapshotServer(
    async (id, at) => (id === sandboxId && at === generation ? snapshot.copy : undefined),
    CHUNK,
  );
  let [indexes, chunks] = [0, 0];
  const server: Server = createServer((incoming, response) => {
    if (incoming.url?.endsWith("/index")) indexes += 1;
    if (incoming.url?.includes("/chunks/")) {
      if (chunks >= endsAfter) return void incoming.socket.destroy();
      chunks += 1;
    }
    void door.answer(incoming, response);
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const { manifestSha256 } = snapshot;
  return {
    source: peerSource(sandboxId, { generation, manifestSha256, storeKey: null, sourceUrl: url }),
    indexes: () => indexes,
    chunks: () => chunks,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}
