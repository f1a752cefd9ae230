/** Who can open a sealed box, and for what. */
import { expect, test } from "vitest";
import { boxPublicKey, createBoxKey, isBoxPublicKey, openBox, sealFor } from "../src/index.ts";

const KEY = createBoxKey();
const TEXT = '{"TOKEN":"hunter2"}';
const sealed = () => sealFor(boxPublicKey(KEY), "run 1", TEXT);
const flipped = (text: string, at: number, encoding: "base64" | "base64url") => {
  const bytes = Buffer.from(text, encoding);
  const index = at < 0 ? bytes.length + at : at;
  bytes.writeUInt8(bytes.readUInt8(index) ^ 1, index);
  return bytes.toString(encoding);
};

test("its receiver opens it; it says nothing by itself, and never looks the same twice", () => {
  const [one, two] = [sealed(), sealed()];
  expect(openBox(KEY, "run 1", one)).toBe(TEXT);
  expect(Buffer.from(one.ciphertext, "base64").includes("hunter2")).toBe(false);
  expect(one.ephemeralKey).not.toBe(two.ephemeralKey);
  expect(one.ciphertext).not.toBe(two.ciphertext);
});

test("nobody else opens it, and nobody for anything else, or with a part of it changed", () => {
  const value = sealed();
  expect(() => openBox(createBoxKey(), "run 1", value)).toThrow(/authenticate data/);
  expect(() => openBox(KEY, "run 2", value)).toThrow(/authenticate data/);
  for (const at of [0, 12, -1]) {
    const ciphertext = flipped(value.ciphertext, at, "base64");
    expect(() => openBox(KEY, "run 1", { ...value, ciphertext })).toThrow(/authenticate data/);
  }
  const ephemeralKey = flipped(value.ephemeralKey, 3, "base64url");
  expect(() => openBox(KEY, "run 1", { ...value, ephemeralKey })).toThrow(/authenticate data/);
  for (const ciphertext of ["", "AAAA"])
    expect(() => openBox(KEY, "run 1", { ...value, ciphertext })).toThrow(/./);
});

test("a key of which every secret is known, or that is none, is seen as such", () => {
  expect(isBoxPublicKey(boxPublicKey(KEY))).toBe(true);
  const raw = (...bytes: number[]) =>
    Buffer.from([...bytes, ...Array<number>(32 - bytes.length).fill(0)]).toString("base64url");
  for (const key of [raw(), raw(1), "", "x", "A".repeat(42)])
    expect(isBoxPublicKey(key), key).toBe(false);
  expect(() => boxPublicKey("x")).toThrow(/PEM|unsupported/i);
});
