/**
 * Loaded into the programs of a soak (`node --import`): writes what memory this process uses after
 * a full collection to a file of its own in `TORPOR_HEAP_DIR`, every ten seconds.
 */
import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

const EVERY_MS = 10_000;

const dir = process.env["TORPOR_HEAP_DIR"];
if (dir !== undefined) {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const file = join(dir, `${process.pid}.json`);
  const report = () => {
    collect();
    mkdirSync(dir, { recursive: true });
    // Whoever reads it reads all of it, or what was there before.
    writeFileSync(`${file}.new`, JSON.stringify(process.memoryUsage()));
    renameSync(`${file}.new`, file);
  };
  setInterval(report, EVERY_MS).unref();
}
