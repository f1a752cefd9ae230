/**
 * An agent of which only the lease matters: `node lease-keeper.ts <dataDir> <leaseMs>` renews the
 * lease four times per duration, without a control plane, until it is stopped.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { bootMs } from "../../src/fence/clock.ts";
import { FenceFiles } from "../../src/fence/files.ts";
import { FenceLink } from "../../src/control/fence-link.ts";

const [dataDir = "", leaseText = "0"] = process.argv.slice(2);
const leaseMs = Number(leaseText);
const link = new FenceLink(new FenceFiles(dataDir));
await link.open();
for (;;) {
  await link.renew(bootMs(), leaseMs);
  await sleep(leaseMs / 4);
}
