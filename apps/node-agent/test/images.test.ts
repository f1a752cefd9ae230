/** The images that a host holds: current ones, which a name points at, and former ones. */
import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { tempDir } from "@torpor/testkit";
import { expect, test } from "vitest";
import { listFormerImages, listImages } from "../src/images/images.ts";

const IMAGE = {
  templateName: "ours",
  displayName: "Ours",
  description: "",
  language: "python",
  category: "test",
  defaults: { vcpu: 1, memoryMib: 64, diskMib: 64 },
  kernelCmdline: "",
};

test("an image that was replaced is still held; a directory without an image is none", async () => {
  await using dir = await tempDir();
  const [current, former, half] = ["a", "b", "c"].map((digit) => digit.repeat(64)) as [
    string,
    string,
    string,
  ];
  for (const sha256 of [current, former, half]) await mkdir(join(dir.path, sha256));
  for (const sha256 of [current, former])
    await writeFile(join(dir.path, sha256, "image.json"), JSON.stringify({ ...IMAGE, sha256 }));
  await mkdir(join(dir.path, ".scratch"));
  await symlink(current, join(dir.path, "ours"));
  const linked = await listImages(dir.path);
  expect(linked.map(({ sha256 }) => sha256)).toEqual([current]);
  expect(await listFormerImages(dir.path, linked)).toMatchObject([
    { sha256: former, templateName: "ours", dir: join(dir.path, former) },
  ]);
});
