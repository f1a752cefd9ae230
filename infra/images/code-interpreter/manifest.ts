/**
 * Writes image.json beside kernel, initrd and rootfs.ext4 and prints the image's digest:
 * `node manifest.ts <dir> <templateName>`.
 */
import { createHash } from "node:crypto";
import { createReadStream, readFileSync, writeFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";

const [dir, templateName] = process.argv.slice(2);
if (dir === undefined || templateName === undefined)
  throw new Error("usage: manifest.ts <dir> <templateName>");

const NAMES = ["initrd", "kernel", "rootfs.ext4"] as const;
const files: Record<string, { sizeBytes: number; sha256: string }> = {};
for (const name of NAMES) {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(join(dir, name), { highWaterMark: 1 << 20 }))
    hash.update(chunk as Buffer);
  files[name] = { sizeBytes: (await stat(join(dir, name))).size, sha256: hash.digest("hex") };
}
const sha256 = createHash("sha256")
  .update(NAMES.map((name) => `${name} ${files[name]?.sha256}\n`).join(""))
  .digest("hex");
const agent = JSON.parse(
  readFileSync(new URL("../../../packages/guest-agent/package.json", import.meta.url), "utf8"),
) as {
  version: string;
};
const image = {
  format: 1,
  templateName,
  sha256,
  displayName: "Code interpreter",
  description:
    "Python with IPython and pip, Node.js with npm, bash, git, gcc and curl on Debian 12",
  language: "python",
  category: "development",
  defaults: { vcpu: 1, memoryMib: 512, diskMib: 2048 },
  kernelCmdline: "console=ttyS0 quiet loglevel=3 net.ifnames=0 panic=-1 mitigations=off",
  guestAgentVersion: agent.version,
  files,
};
writeFileSync(join(dir, "image.json"), `${JSON.stringify(image, null, 2)}\n`);
process.stdout.write(`${sha256}\n`);
