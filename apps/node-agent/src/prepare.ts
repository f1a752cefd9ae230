/**
 * Makes the golden snapshot of every image, so that the first create need not wait for it:
 * `node prepare.ts`, with the agent's environment.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { configFrom } from "./config.ts";
import { chooseDriver } from "./drivers/choose.ts";
import { withFileLock } from "./host/file-lock.ts";
import { chooseIsolation } from "./host/isolation/choose.ts";
import { listImages } from "./images/images.ts";
import { ensureGolden } from "./images/golden.ts";
import { httpGuest } from "./lifecycle/guest.ts";

const LOCK_LIMIT_MS = 1_200_000;

const given = configFrom(process.env);
const scratchDir = join(given.IMAGES_DIR, ".scratch");
/**
 * Configuration apart from that of an agent that may run: another directory, which gives other
 * names on the host, no prepared namespaces, and no egress.
 */
const config = { ...given, DATA_DIR: scratchDir, VM_NETWORK_POOL: 0, EGRESS: "off" as const };
const say = (line: string) => process.stdout.write(`  ${line}\n`);
const log = { info: sayFacts, warn: sayFacts };

await mkdir(scratchDir, { recursive: true });
await withFileLock(join(scratchDir, "lock"), LOCK_LIMIT_MS, async () => {
  const { isolation, dismantle } = await chooseIsolation(config, log);
  try {
    await isolation.collect([]);
    const driver = await chooseDriver(config, isolation, log);
    for (const image of await listImages(config.IMAGES_DIR))
      await ensureGolden(image, {
        driver,
        guest: httpGuest(driver),
        uid: isolation.uid,
        scratchDir,
        say,
      });
  } finally {
    await dismantle();
  }
});

function sayFacts(facts: object, message?: string): void {
  say(`${message ?? ""}: ${Object.values(facts).join(", because ")}`);
}
