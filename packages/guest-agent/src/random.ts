/**
 * Names that nobody else has. Read from the system at every call: the generators of this process were
 * running when the golden snapshot was taken, and are the same in every sandbox made from it; the
 * system's is given new entropy first (system/identity.ts).
 */
import { closeSync, openSync, readSync } from "node:fs";

/** Hexadecimal, two digits per byte. */
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
