import { invalidRequest } from "./errors.ts";

/** Opaque to clients; it holds the key of the last row of a page. */
export function encodeCursor(key: string): string {
  return Buffer.from(key).toString("base64url");
}

/** Throws the 400 of a cursor that was not given out here. */
export function decodeCursor(cursor: string, isKey: (text: string) => boolean): string {
  const key = Buffer.from(cursor, "base64url").toString("utf8");
  if (!isKey(key))
    throw invalidRequest([{ field: "cursor", message: "is not one that this list gave out" }]);
  return key;
}
