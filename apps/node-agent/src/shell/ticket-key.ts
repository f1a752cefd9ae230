/**
 * The key of which tickets for this host's data plane are made. It stays over restarts, so that
 * what was given out before goes on.
 */
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { writeDurably } from "../host/files.ts";

const KEY = /^[0-9a-f]{64}$/;
const KEY_BYTES = 32;

/**
 * Read from the data directory; made there when there is none. Another one, after the file was
 * removed, counts once the host has registered with it.
 */
export async function ticketKeyIn(dataDir: string): Promise<string> {
  const file = join(dataDir, "ticket-key");
  const known = await readFile(file, "utf8").catch(() => "");
  if (KEY.test(known)) return known;
  const made = randomBytes(KEY_BYTES).toString("hex");
  await writeDurably(file, made);
  return made;
}
