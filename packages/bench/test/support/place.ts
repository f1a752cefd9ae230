import { chmod } from "node:fs/promises";
import { join } from "node:path";
import { recordLeftover, ROOT, tempDir } from "@torpor/testkit";

/** Directory of one test's fleet; removed with its contents when the test ends. */
export async function place() {
  const { path, ...dir } = await tempDir();
  // Postgres runs as another user.
  await chmod(path, 0o711);
  const fleetDir = join(path, "fleet");
  recordLeftover({ kind: "fleet", name: fleetDir });
  return { root: ROOT, dir: fleetDir, [Symbol.asyncDispose]: dir[Symbol.asyncDispose] };
}
