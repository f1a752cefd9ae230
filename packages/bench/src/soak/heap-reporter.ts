/**
 * Loaded into the programs of a soak (`node --import`). Every ten seconds, writes the memory use of
 * this process after a full collection to its own file in `TORPOR_HEAP_DIR`.
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
    // A reader gets the complete new file, or the complete old one.
    writeFileSync(`${file}.new`, JSON.stringify(process.memoryUsage()));
    renameSync(`${file}.new`, file);
  };
  setInterval(report, EVERY_MS).unref();
}
