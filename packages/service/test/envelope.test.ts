/** Envelope encryption: what opens a sealed text, and what does not. */
import { mkdtempDisposable, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { createEnvelope, type Envelope, envelopeFrom, keysOf } from "../src/envelope.ts";

const [OLD, NEW] = ["o".repeat(64), "n".repeat(64)];
const TEXT = '{"TOKEN":"hunter2"}';
const envelopeOf = (secret: string, accepted: string[] = []) =>
  createEnvelope(keysOf(secret, accepted));

async function sealed(secret = OLD, context = "sandbox-1") {
  const value = await envelopeOf(secret).seal(context, TEXT);
  if (value === undefined) throw new Error("nothing was sealed");
  return value;
}
const flipped = (base64: string, at: number) => {
  const bytes = Buffer.from(base64, "base64");
  const index = at < 0 ? bytes.length + at : at;
  bytes.writeUInt8(bytes.readUInt8(index) ^ 1, index);
  return bytes.toString("base64");
};

test("what is sealed opens again, says nothing by itself, and never looks the same twice", async () => {
  const [one, two] = [await sealed(), await sealed()];
  expect(await envelopeOf(OLD).open("sandbox-1", one)).toBe(TEXT);
  expect(JSON.stringify(one)).not.toContain("hunter2");
  expect(JSON.stringify(one)).not.toContain(Buffer.from("hunter2").toString("base64").slice(0, 8));
  for (const part of ["ciphertext", "wrappedKey"] as const) expect(one[part]).not.toBe(two[part]);
});

test("it opens in no other context, and not when any part of it was changed", async () => {
  const value = await sealed();
  const open = (...args: Parameters<Envelope["open"]>) => envelopeOf(OLD).open(...args);
  await expect(open("sandbox-2", value)).rejects.toThrow(/authenticate data/);
  for (const at of [0, 12, -1]) {
    const { ciphertext, wrappedKey } = value;
    await expect(
      open("sandbox-1", { ...value, ciphertext: flipped(ciphertext, at) }),
    ).rejects.toThrow(/authenticate data/);
    await expect(
      open("sandbox-1", { ...value, wrappedKey: flipped(wrappedKey, at) }),
    ).rejects.toThrow(/authenticate data/);
  }
  const { wrappedKey } = await sealed();
  await expect(open("sandbox-1", { ...value, wrappedKey })).rejects.toThrow(/authenticate data/);
});

test("a key is exchanged: the new one seals, the old one opens what it sealed while it is accepted", async () => {
  const before = await sealed(OLD);
  const both = envelopeOf(NEW, [OLD]);
  expect(await both.open("sandbox-1", before)).toBe(TEXT);
  const after = await both.seal("sandbox-1", TEXT);
  expect(after?.keyId).toBe(envelopeOf(NEW).keyId);
  await expect(envelopeOf(NEW).open("sandbox-1", before)).rejects.toThrow(
    new RegExp(`key ${before.keyId} is in none of the files`),
  );
});

test("without a key nothing is sealed, and what is sealed says what is missing", async () => {
  const none = envelopeFrom(undefined, "");
  expect([none.keyId, await none.seal("sandbox-1", TEXT)]).toEqual([undefined, undefined]);
  await expect(none.open("sandbox-1", await sealed())).rejects.toThrow(/ENV_KEY_FILE is not set/);
});

test("keys come from files; one that is too short is no key", async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), "torpor-envelope-"));
  const file = async (name: string, text: string) => {
    const path = join(dir.path, name);
    await writeFile(path, text);
    return path;
  };
  const [old, next, short] = [
    await file("old", `${OLD}\n`),
    await file("new", NEW),
    await file("short", "x"),
  ];
  expect(await envelopeFrom(next, ` ${old} ,`).open("sandbox-1", await sealed())).toBe(TEXT);
  expect(() => envelopeFrom(short, "")).toThrow(/fewer than 32 bytes/);
  expect(() => envelopeFrom(old, short)).toThrow(/fewer than 32 bytes/);
  expect(() => envelopeFrom(join(dir.path, "none"), "")).toThrow(/cannot be read/);
});
