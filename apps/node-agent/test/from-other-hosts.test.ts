/**
 * What comes from another host or the store is decoded with bounds: names and numbers in it become
 * paths, sizes and headers on this host.
 */
import { expect, test } from "vitest";
import { jsonDecoder } from "../src/host/json.ts";
import { decodeManifest, manifestIn } from "../src/lifecycle/manifest.ts";
import { Origin } from "../src/lifecycle/record.ts";
import { decodeIndex, encodeIndex, type SnapshotIndex } from "../src/store/format.ts";

const SHA = "a".repeat(64);
const MANIFEST = {
  format: 1,
  sandboxId: "1763309903rt5vs4lm",
  generation: 2,
  epoch: 1,
  driverFingerprint: "simulated/1",
  imageSha256: SHA,
  vcpu: 1,
  memoryMib: 64,
  files: { memory: { sizeBytes: 5, sha256: SHA } },
  diskSizeBytes: 10,
  guestSynced: true,
  createdAt: "2026-01-01T00:00:00.000Z",
};
const INDEX: SnapshotIndex = {
  format: 1,
  manifest: JSON.stringify(MANIFEST),
  record: "{}",
  chunkBytes: 4,
  files: { "disk.raw": { sizeBytes: 10, chunks: [[2, SHA, 0]] } },
};

const indexWith = (given: object) => encodeIndex({ ...INDEX, ...given } as SnapshotIndex);
const fileWith = (given: object) => ({
  files: { "disk.raw": { sizeBytes: 10, chunks: [], ...given } },
});

test("a manifest as an agent writes it, with a field that only a newer one knows", () => {
  expect(decodeManifest(JSON.stringify({ ...MANIFEST, newer: true }))).toMatchObject(MANIFEST);
});

test.each<[string, object | string]>([
  ["no JSON", "{"],
  ["nothing", "null"],
  ["an unknown format", { format: 2 }],
  ["a generation that leads elsewhere", { generation: "1/../../../x" }],
  ["a negative generation", { generation: -1 }],
  ["a file outside of its directory", { files: { "../vm.json": { sizeBytes: 1, sha256: SHA } } }],
  ["a hidden file", { files: { ".tmp": { sizeBytes: 1, sha256: SHA } } }],
  ["a file without a hash", { files: { memory: { sizeBytes: 1 } } }],
  ["a disk that no disk can hold", { diskSizeBytes: 2 ** 50 }],
])("a manifest with %s is refused", (_name, given) => {
  const text = typeof given === "string" ? given : JSON.stringify({ ...MANIFEST, ...given });
  expect(() => decodeManifest(text)).toThrow(/the manifest is not valid: /);
  expect(manifestIn(text)).toBeInstanceOf(Error);
});

test("an index as an agent writes it", () => {
  expect(decodeIndex(indexWith({}))).toEqual(INDEX);
});

test.each<[string, object, RegExp]>([
  ["an unknown format", { format: 2 }, /format/],
  ["a chunk that fills the memory", { chunkBytes: 2 ** 40 }, /chunkBytes/],
  ["no chunk size", { chunkBytes: 0 }, /chunkBytes/],
  ["a file outside", { files: { "../../x": { sizeBytes: 1, chunks: [] } } }, /files/],
  ["a file that no disk can hold", fileWith({ sizeBytes: 2 ** 50 }), /sizeBytes/],
  ["a chunk before the file", fileWith({ chunks: [[-1, SHA, 0]] }), /chunks/],
  ["a chunk beyond the end", fileWith({ chunks: [[3, SHA, 0]] }), /beyond the end of disk.raw/],
  ["a hash that is a path", fileWith({ chunks: [[0, "../../x", 0]] }), /chunks/],
])("an index with %s is refused, and the field is named", (_name, given, field) => {
  expect(() => decodeIndex(indexWith(given))).toThrow(field);
});

test("keys of another host's guest are keys, and its kernel's parameters one line", () => {
  const decode = jsonDecoder(Origin);
  const origin = { agentKey: SHA, machineId: "b".repeat(32), kernelCmdline: "console=ttyS0" };
  expect(decode("it", JSON.stringify({ ...origin, state: "of a newer agent" }))).toMatchObject(
    origin,
  );
  for (const wrong of [
    { agentKey: "x\r\nhost: y" },
    { machineId: 7 },
    { kernelCmdline: "a\nb" },
    { kernelCmdline: "x".repeat(5_000) },
  ])
    expect(() => decode("it", JSON.stringify({ ...origin, ...wrong }))).toThrow("it is not valid");
});
