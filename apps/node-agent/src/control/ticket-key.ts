/**
 * The key that tickets for this host's data plane are made from. The key survives restarts, so that
 * issued tickets stay valid.
 */
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { writeDurably } from "../host/files.ts";

const KEY = /^[0-9a-f]{64}$/;
const KEY_BYTES = 32;

/**
 * Reads the key from the data directory, or creates one. A key that replaces a removed file is used
 * once the host has registered with it.
 */
export async function ticketKeyIn(dataDir: string): Promise<string> {
  const file = join(dataDir, "ticket-key");
  const known = await readFile(file, "utf8").catch(() => "");
  if (KEY.test(known)) return known;
  const made = randomBytes(KEY_BYTES).toString("hex");
  await writeDurably(file, made);
  return made;
}
