/** The version of a QEMU binary. */
import { stat } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { execFile } from "node:child_process";
import { promisify } from "node:util";

const run = promisify(execFile);

/** Versions by the binary's identity: `--version` takes as long as the start of a VM. */
const versions = new Map<string, Promise<string>>();

export async function qemuVersion(bin: string): Promise<string> {
  const key = await identityOf(bin);
  const known = key === undefined ? undefined : versions.get(key);
  if (known !== undefined) return await known;
  const asked = queryVersion(bin);
  if (key === undefined) return await asked;
  versions.clear();
  versions.set(key, asked);
  asked.catch(() => versions.delete(key));
  return await asked;
}

/**
 * Identity of the binary, which an upgrade changes while the agent runs; undefined if there is no
 * such file.
 */
async function identityOf(bin: string): Promise<string | undefined> {
  const dirs = bin.includes("/") ? [""] : (process.env["PATH"] ?? "").split(delimiter);
  for (const dir of dirs) {
    const path = join(dir, bin);
    const facts = await stat(path).catch(() => undefined);
    if (facts?.isFile() === true)
      return [path, facts.dev, facts.ino, facts.size, facts.mtimeMs].join(" ");
  }
  return undefined;
}

async function queryVersion(bin: string): Promise<string> {
  const { stdout } = await run(bin, ["--version"]).catch((cause: unknown) => {
    throw new Error(
      `QEMU cannot be run as "${bin}": install qemu-system-x86, or set QEMU_BIN to where it is`,
      { cause },
    );
  });
  return /version (\S+)/.exec(stdout)?.[1] ?? "unknown";
}
