import { invalidRequest } from "./errors.ts";

/** Encodes the key of the last row of a page; opaque to clients. */
export function encodeCursor(key: string): string {
  return Buffer.from(key).toString("base64url");
}

/** Throws the 400 for a cursor without a valid key. */
export function decodeCursor<Key extends string>(
  cursor: string,
  isKey: (text: string) => text is Key,
): Key;
export function decodeCursor(cursor: string, isKey: (text: string) => boolean): string;
export function decodeCursor(cursor: string, isKey: (text: string) => boolean): string {
  const key = Buffer.from(cursor, "base64url").toString("utf8");
  if (!isKey(key))
    throw invalidRequest([{ field: "cursor", message: "is not one that this list gave out" }]);
  return key;
}
