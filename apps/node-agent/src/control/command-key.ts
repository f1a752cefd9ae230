/**
 * The key for which the control plane seals those parts of commands that only this host may read.
 * The key survives restarts, because a command may have waited for one.
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
 * Reads the key from the data directory, or creates one if the file is missing or holds no key. A
 * new key is used once the host has registered with it. Throws if the file exists but cannot be
 * read: no other key opens what was sealed for its key.
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
