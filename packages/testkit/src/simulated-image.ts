/** An image for the simulated driver: the files of an image, with placeholder contents. */
import { createHash } from "node:crypto";
import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";

export const SIMULATED_TEMPLATE = "code-interpreter";

/** Returns the digest of the image. */
export async function makeSimulatedImage(imagesDir: string, memoryMib = 64): Promise<string> {
  const sha256 = createHash("sha256").update("a simulated image").digest("hex");
  const dir = join(imagesDir, sha256);
  await mkdir(dir, { recursive: true });
  for (const name of ["kernel", "initrd", "rootfs.ext4"]) await writeFile(join(dir, name), name);
  const image = {
    format: 1,
    templateName: SIMULATED_TEMPLATE,
    sha256,
    displayName: "Simulated",
    description: "No virtual machine",
    language: "python",
    category: "test",
    defaults: { vcpu: 1, memoryMib, diskMib: 16 },
    kernelCmdline: "",
  };
  await writeFile(join(dir, "image.json"), JSON.stringify(image));
  await symlink(sha256, join(imagesDir, SIMULATED_TEMPLATE));
  return sha256;
}
