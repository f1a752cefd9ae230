/**
 * File names as bytes, which the disk has, and as text, which JSON can hold.
 *
 * FN1  A byte that is no part of valid UTF-8 is shown as a character from U+F080 to U+F0FF. That
 *      character in a caller's text means the byte, if a name with that byte exists.
 * FN2  A name that really contains one of these characters is shown as it is. Only if its text
 *      would mean another existing name too, its own bytes are shown.
 *
 * So every name has a text, and no shown text means two names (guest/watcher.py does the same).
 */
import { lstat } from "node:fs/promises";

/** A path as system calls take it, and as callers see it. Free of links. */
export interface NamedPlace {
  bytes: Buffer;
  shown: string;
}

export const ROOT: NamedPlace = { bytes: Buffer.from("/"), shown: "/" };

const BYTE_CHARACTERS = /[\uF080-\uF0FF]/;
const BASE = 0xf000;

/** The text of a name, given the other names in its directory. */
export async function shownName(
  name: Buffer,
  isThere: (other: Buffer) => boolean | Promise<boolean>,
): Promise<string> {
  const text = name.toString("utf8");
  if (!Buffer.from(text).equals(name)) return spelled(name);
  const isPlain = !BYTE_CHARACTERS.test(text) || !(await isThere(meant(text)));
  return isPlain ? text : spelled(name);
}

/** The name that a caller's text means in a directory; the text itself if no such name exists. */
export async function nameIn(directory: NamedPlace, text: string): Promise<Buffer> {
  if (!BYTE_CHARACTERS.test(text)) return Buffer.from(text);
  const name = meant(text);
  return (await isIn(directory, name)) ? name : Buffer.from(text);
}

/** The place of the entry with that name in a directory. */
export async function placeIn(directory: NamedPlace, name: Buffer): Promise<NamedPlace> {
  const text = await shownName(name, (other) => isIn(directory, other));
  return { bytes: joined(directory.bytes, name), shown: joinedText(directory.shown, text) };
}

/** Like `placeIn`, for a name whose text is known. */
export function childOf(directory: NamedPlace, name: Buffer, text: string): NamedPlace {
  return { bytes: joined(directory.bytes, name), shown: joinedText(directory.shown, text) };
}

export function parentOf({ bytes, shown }: NamedPlace): NamedPlace {
  const at = bytes.lastIndexOf("/");
  if (at <= 0) return ROOT;
  return { bytes: bytes.subarray(0, at), shown: shown.slice(0, shown.lastIndexOf("/")) };
}

const joined = (directory: Buffer, name: Buffer): Buffer =>
  Buffer.concat(directory.equals(ROOT.bytes) ? [directory, name] : [directory, ROOT.bytes, name]);
const joinedText = (directory: string, text: string): string =>
  directory === "/" ? `/${text}` : `${directory}/${text}`;

const isIn = (directory: NamedPlace, name: Buffer): Promise<boolean> =>
  lstat(joined(directory.bytes, name)).then(
    () => true,
    () => false,
  );

/**
 * Replaces each byte that is no part of valid UTF-8, and each byte of a character that stands for
 * one.
 */
function spelled(name: Buffer): string {
  let text = "";
  for (let at = 0; at < name.length;) {
    const character = characterAt(name, at);
    const length = Buffer.byteLength(character);
    if (length === 0 || BYTE_CHARACTERS.test(character)) {
      for (const byte of name.subarray(at, at + Math.max(length, 1)))
        text += String.fromCharCode(BASE + byte);
    } else text += character;
    at += Math.max(length, 1);
  }
  return text;
}

/** Returns "" where no valid character begins. */
function characterAt(name: Buffer, at: number): string {
  const first = name[at] ?? 0;
  const length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  const bytes = name.subarray(at, at + length);
  const character = bytes.toString("utf8");
  return Buffer.from(character).equals(bytes) ? character : "";
}

/** The bytes of a text in which every stand-in character becomes its byte. */
function meant(text: string): Buffer {
  return Buffer.concat(
    Array.from(text, (character) =>
      BYTE_CHARACTERS.test(character)
        ? Buffer.of(character.charCodeAt(0) - BASE)
        : Buffer.from(character),
    ),
  );
}
