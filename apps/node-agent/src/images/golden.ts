/**
 * Golden snapshots: the memory of a freshly booted, warmed-up image, from which `create` and
 * `start` restore instead of booting. One is made per image and VMM fingerprint, by the first agent
 * that needs it, and kept beside the image. A golden snapshot holds no secret and has no disk
 * attached: a sandbox gets its own disk after the restore.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { chmod, mkdir, open, rename, rm, stat, truncate } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type { SandboxSpec } from "@torpor/contracts";
import type { Driver, Vm } from "../drivers/driver.ts";
import { fsyncPath, sizeOf, writeDurably } from "../host/files.ts";
import { withFileLock } from "../host/file-lock.ts";
import { jsonReader } from "../host/json.ts";
import { linkImage } from "../lifecycle/disk.ts";
import { wrongSize } from "../snapshot-files.ts";
import type { Guest } from "../lifecycle/guest.ts";
import { Manifest } from "../lifecycle/manifest.ts";
import type { Image } from "./images.ts";

const run = promisify(execFile);
const readManifest = jsonReader(Manifest);
/** In the lab host, which is emulated twice, a boot takes minutes. */
const BOOT_LIMIT_MS = 600_000;
const LOCK_LIMIT_MS = 1_500_000;

export interface Golden {
  dir: string;
  manifest: Manifest;
}

/** True if the golden snapshot has exactly these sizes, which are fixed in its memory. */
export function hasSize(
  golden: Pick<Manifest, "vcpu" | "memoryMib" | "diskSizeBytes">,
  { vcpu, memoryMib, diskMib }: SandboxSpec["resources"],
): boolean {
  return (
    golden.vcpu === vcpu &&
    golden.memoryMib === memoryMib &&
    golden.diskSizeBytes === diskMib * 1024 ** 2
  );
}

/** Golden snapshot of the image for this VMM; undefined if there is none. */
export async function findGolden(
  image: Image,
  driver: Pick<Driver, "fingerprint">,
): Promise<Golden | undefined> {
  const dir = goldenDir(image, await driver.fingerprint());
  const manifest = await readManifest(join(dir, "manifest.json"));
  return manifest === undefined ? undefined : { dir, manifest };
}

function goldenDir(image: Image, fingerprint: string): string {
  return join(image.dir, `golden-${fingerprint.replaceAll("/", "_")}`);
}

export interface GoldenDeps {
  driver: Driver;
  guest: Guest;
  uid: number | undefined;
  /** Directory of the scratch VM, on the file system of the images. */
  scratchDir: string;
  say(line: string): void;
}

/**
 * Makes the image's golden snapshot for this driver, if there is none. If several processes call
 * this at once, one makes the snapshot and the others wait.
 */
export async function ensureGolden(image: Image, deps: GoldenDeps): Promise<void> {
  const target = goldenDir(image, await deps.driver.fingerprint());
  if (await isWhole(target)) return;
  await withFileLock(`${target}.lock`, LOCK_LIMIT_MS, async () => {
    if (!(await isWhole(target))) await make(image, target, deps);
  });
}

async function isWhole(target: string): Promise<boolean> {
  const manifest = await readManifest(join(target, "manifest.json"));
  if (manifest === undefined) return false;
  if ((await wrongSize(target, manifest.files)) !== undefined) return false;
  return (await sizeOf(join(target, "disk.raw"))) === manifest.diskSizeBytes;
}

async function make(image: Image, target: string, deps: GoldenDeps): Promise<void> {
  const startedAt = performance.now();
  const say = (line: string) =>
    deps.say(
      `golden snapshot of ${image.templateName}: ${line} (${((performance.now() - startedAt) / 1000).toFixed(1)} s)`,
    );
  await mkdir(deps.scratchDir, { recursive: true });
  // The name is the same each time, and this process holds the lock: existing files, and a VM, are
  // left from an earlier process that was killed.
  const dir = join(
    deps.scratchDir,
    `golden-${createHash("sha256").update(target).digest("hex").slice(0, 12)}`,
  );
  const { vcpu, memoryMib, diskMib } = image.defaults;
  const vm: Vm = {
    dir,
    sandboxId: "golden",
    vcpu,
    memoryMib,
    kernelCmdline: image.kernelCmdline,
    internetAccess: false,
  };
  const out = `${target}.tmp`;
  await deps.driver.end(vm, { graceMs: 0 });
  await rm(dir, { recursive: true, force: true });
  try {
    await linkImage(deps, image, dir, (path) => makeDisk(path, diskMib));
    await deps.driver.boot(vm, AbortSignal.timeout(BOOT_LIMIT_MS));
    say("booting");
    if (!(await deps.guest.waitHealthy(vm, BOOT_LIMIT_MS, AbortSignal.timeout(BOOT_LIMIT_MS))))
      throw new Error(`the guest agent of ${image.templateName} did not answer; see ${dir}`);
    say("the guest agent answers; warming up");
    await deps.guest.warm(vm);
    const prepared = await deps.guest.preparePause(vm);
    await deps.driver.pauseVcpus(vm);
    await rm(out, { recursive: true, force: true });
    await mkdir(out);
    const { files, fingerprint } = await deps.driver.saveMemory(
      vm,
      out,
      AbortSignal.timeout(BOOT_LIMIT_MS),
    );
    await deps.driver.end(vm, { graceMs: 0 });
    await fsyncPath(join(dir, "disk.raw"));
    await rename(join(dir, "disk.raw"), join(out, "disk.raw"));
    const manifest: Manifest = {
      format: 1,
      sandboxId: "golden",
      generation: 0,
      epoch: 0,
      driverFingerprint: fingerprint,
      imageSha256: image.sha256,
      vcpu,
      memoryMib,
      files,
      diskSizeBytes: (await stat(join(out, "disk.raw"))).size,
      guestSynced: prepared.synced,
      createdAt: new Date().toISOString(),
    };
    await writeDurably(join(out, "manifest.json"), JSON.stringify(manifest));
    await chmod(join(out, "disk.raw"), 0o644);
    await rm(target, { recursive: true, force: true });
    await rename(out, target);
    await fsyncPath(image.dir);
    say("ready");
  } finally {
    await deps.driver.end(vm, { graceMs: 0 });
    await rm(dir, { recursive: true, force: true });
    await rm(out, { recursive: true, force: true });
  }
}

/** Makes a disk with an empty file system. */
export async function makeDisk(path: string, diskMib: number): Promise<void> {
  await (await open(path, "wx")).close();
  await truncate(path, diskMib * 1024 ** 2);
  await run("mkfs.ext4", [
    "-q",
    "-F",
    "-m",
    "0",
    "-O",
    "^metadata_csum_seed",
    "-E",
    "lazy_itable_init=1,lazy_journal_init=1",
    path,
  ]);
}
