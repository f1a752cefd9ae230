/**
 * Bundles the guest agent to one file for the Node.js that the image ships:
 * `node build.ts <outFile>`.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const { version } = JSON.parse(readFileSync(new URL("package.json", import.meta.url), "utf8")) as {
  version: string;
};

export async function bundleGuestAgent(outFile: string): Promise<void> {
  await build({
    entryPoints: [fileURLToPath(new URL("src/main.ts", import.meta.url))],
    outfile: outFile,
    bundle: true,
    platform: "node",
    target: "node18",
    format: "cjs",
    define: { AGENT_VERSION: JSON.stringify(version) },
    legalComments: "none",
  });
}

const outFile = process.argv[2];
if (import.meta.main && outFile !== undefined) await bundleGuestAgent(outFile);
