/**
 * The key for which the control plane seals what only this host is to read in its commands. It
 * stays over restarts: a command may have waited for one.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { boxPublicKey, createBoxKey } from "@torpor/service";
import { isNotFound, writeDurably } from "../host/files.ts";

export interface CommandKey {
  /** PEM. */
  privateKey: string;
  publicKey: string;
}

/**
 * Read from the data directory; made there when there is none, or what is there is no key. A new
 * key counts once the host has registered with it. Throws when the file is there and cannot be
 * read: what was sealed for its key could never be opened with another.
 */
export async function commandKeyIn(dataDir: string): Promise<CommandKey> {
  const file = join(dataDir, "command-key");
  const known = keyIn(await readIfThere(file));
  if (known !== undefined) return known;
  const privateKey = createBoxKey();
  await writeDurably(file, privateKey);
  return { privateKey, publicKey: boxPublicKey(privateKey) };
}

async function readIfThere(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    if (isNotFound(error)) return "";
    throw error;
  }
}

function keyIn(privateKey: string): CommandKey | undefined {
  try {
    return { privateKey, publicKey: boxPublicKey(privateKey) };
  } catch {
    return undefined;
  }
}
