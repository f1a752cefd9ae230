/**
 * The key for which the control plane seals what only this host is to read in its commands. It stays
 * over restarts: a command may have waited for one.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { boxPublicKey, createBoxKey } from "@torpor/service";
import { writeDurably } from "../host/files.ts";

export interface CommandKey {
  /** PEM. */
  privateKey: string;
  publicKey: string;
}

/**
 * Read from the data directory; made there when there is none that can be used. Another one counts
 * once the host has registered with it.
 */
export async function commandKeyIn(dataDir: string): Promise<CommandKey> {
  const file = join(dataDir, "command-key");
  const known = keyIn(await readFile(file, "utf8").catch(() => ""));
  if (known !== undefined) return known;
  const privateKey = createBoxKey();
  await writeDurably(file, privateKey);
  return { privateKey, publicKey: boxPublicKey(privateKey) };
}

function keyIn(privateKey: string): CommandKey | undefined {
  try {
    return { privateKey, publicKey: boxPublicKey(privateKey) };
  } catch {
    return undefined;
  }
}
