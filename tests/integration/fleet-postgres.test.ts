/** The Postgres of a local fleet that more than one user starts. */
import { execFile } from "node:child_process";
import { chmod } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import {
  databaseUrl,
  preparePostgres,
  startProcess,
  stopProcess,
  waitHealthy,
} from "@torpor/fleet";
import { claimPort } from "@torpor/service";
import { tempDir } from "@torpor/testkit";
import { expect, test } from "vitest";

const run = promisify(execFile);
const A_USER = 12_345;
const LIMIT_MS = 60_000;
const isRoot = process.getuid?.() === 0;

test.skipIf(!isRoot)(
  `root goes on with what a user has begun${isRoot ? "" : ": root alone can"}`,
  async () => {
    await using root = await tempDir();
    await chmod(root.path, 0o711);
    using claimed = await claimPort();
    const dir = join(root.path, "postgres");
    const options = { dir, port: claimed.port, password: "test", isDurable: false };
    await preparePostgres(options);
    await run("chown", ["-R", `${A_USER}:${A_USER}`, dir]);

    const command = await preparePostgres(options);
    const component = {
      name: "postgres",
      role: "postgres",
      address: `127.0.0.1:${claimed.port}`,
      healthUrl: databaseUrl(options),
      log: join(root.path, "log"),
      ...command,
    } as const;
    const identity = await startProcess(component);
    try {
      await expect(
        waitHealthy({ ...component, process: identity }, LIMIT_MS, new AbortController().signal),
      ).resolves.toBeUndefined();
    } finally {
      await stopProcess(identity, "SIGINT", 5_000);
    }
  },
);
