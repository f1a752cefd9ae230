/**
 * Unique names. Every call reads from the system: the generators of this process were already
 * running when the golden snapshot was taken, so every sandbox of that snapshot would get the same
 * values. The system's generator gets new entropy first (system/identity.ts).
 */
import { closeSync, openSync, readSync } from "node:fs";

/** `bytes` random bytes in hexadecimal. */
export function randomId(bytes: number): string {
  const buffer = Buffer.alloc(bytes);
  const source = openSync("/dev/urandom", "r");
  try {
    readSync(source, buffer, 0, bytes, null);
  } finally {
    closeSync(source);
  }
  return buffer.toString("hex");
}
