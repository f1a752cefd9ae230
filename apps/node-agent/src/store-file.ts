/** The snapshot store as a directory that all hosts share (a mounted file system). An entry is whole or not there: written beside, synced, renamed. */
import { createHash } from "node:crypto";
import { copyFile, mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { copySparsely, fsyncPath, packSparsely, readJson, renameDurably, sha256Of, unpackSparsely, writeDurably } from "./host/files.ts";
import type { SnapshotStore } from "./lifecycle/context.ts";
import { linkFromImage } from "./lifecycle/disk.ts";
import type { Manifest } from "./lifecycle/snapshot.ts";
import { snapshotDir } from "./lifecycle/snapshot.ts";
import { wrongHash } from "./snapshot-files.ts";

const SUMS = "sums.json";
const DISK = "disk.tar";

export function fileSnapshotStore(options: { storeDir: string; imagesDir: string; uid: number | undefined }): SnapshotStore {
  const entryOf = (storeKey: string) => join(options.storeDir, storeKey);
  return {
    async put(storeKey, sourceDir, generation, signal) {
      const unfinished = `${entryOf(storeKey)}.tmp`;
      await rm(unfinished, { recursive: true, force: true });
      await mkdir(unfinished, { recursive: true, mode: 0o700 });
      try {
        const source = snapshotDir(sourceDir, generation);
        const names = await readdir(source);
        for (const name of names) await copySparsely(join(source, name), join(unfinished, name), signal);
        await packSparsely(join(sourceDir, "disk.raw"), join(unfinished, DISK), signal);
        await copySparsely(join(sourceDir, "vm.json"), join(unfinished, "vm.stored.json"), signal);
        const manifest = await readJson<Manifest>(join(unfinished, "manifest.json"));
        if (manifest === undefined) throw new Error("the snapshot has no manifest");
        await verifyFiles(unfinished, manifest, signal);
        const disk = { sha256: await sha256Of(join(unfinished, DISK), signal) };
        for (const name of [...names, DISK, "vm.stored.json"]) await fsyncPath(join(unfinished, name));
        await writeDurably(join(unfinished, SUMS), JSON.stringify({ disk }));
        signal.throwIfAborted();
        await rm(entryOf(storeKey), { recursive: true, force: true });
        await renameDurably(unfinished, entryOf(storeKey));
        await removeOlder(options.storeDir, storeKey, generation);
      } finally {
        await rm(unfinished, { recursive: true, force: true });
      }
    },

    async get(storeKey, targetDir, expected) {
      const entry = entryOf(storeKey);
      const text = await readFile(join(entry, "manifest.json"), "utf8").catch((cause: unknown) => {
        throw new Error(`the store has no snapshot ${storeKey}`, { cause });
      });
      if (createHash("sha256").update(text).digest("hex") !== expected.manifestSha256)
        throw new Error(`the manifest of ${storeKey} is not the one that was recorded`);
      const manifest = JSON.parse(text) as Manifest;
      const sums = await readJson<{ disk: { sha256: string } }>(join(entry, SUMS));
      if ((await sha256Of(join(entry, DISK))) !== sums?.disk.sha256) throw new Error(`the disk of ${storeKey} is damaged`);
      await linkFromImage(options, manifest.imageSha256, targetDir, (path) => unpackSparsely(join(entry, DISK), path));
      const unfinished = `${snapshotDir(targetDir, expected.generation)}.tmp`;
      await rm(unfinished, { recursive: true, force: true });
      await mkdir(unfinished, { mode: 0o700 });
      for (const name of [...Object.keys(manifest.files), "manifest.json"]) await copySparsely(join(entry, name), join(unfinished, name));
      await verifyFiles(unfinished, manifest);
      for (const name of [...Object.keys(manifest.files), "manifest.json"]) await fsyncPath(join(unfinished, name));
      await copyFile(join(entry, "vm.stored.json"), join(targetDir, "vm.stored.json"));
      await rm(snapshotDir(targetDir, expected.generation), { recursive: true, force: true });
      await renameDurably(unfinished, snapshotDir(targetDir, expected.generation));
    },

    async remove(sandboxId) {
      const names = await readdir(options.storeDir).catch(() => []);
      for (const name of names.filter((entry) => entry.startsWith(`${sandboxId}-`)))
        await rm(join(options.storeDir, name), { recursive: true, force: true });
    },
  };
}

/** The newest is what a lost host's sandbox is resumed from; what is older has been run, and is for nothing. */
async function removeOlder(storeDir: string, storeKey: string, generation: number): Promise<void> {
  const prefix = storeKey.slice(0, -String(generation).length);
  const names = (await readdir(storeDir)).filter((name) => name.startsWith(prefix));
  for (const name of names.filter((entry) => Number(entry.slice(prefix.length)) < generation))
    await rm(join(storeDir, name), { recursive: true, force: true });
}

async function verifyFiles(dir: string, manifest: Manifest, signal?: AbortSignal): Promise<void> {
  const wrong = await wrongHash(dir, manifest.files, signal);
  if (wrong !== undefined) throw new Error(`the snapshot cannot be used: ${wrong}`);
}
