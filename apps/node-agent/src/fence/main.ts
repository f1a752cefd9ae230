/**
 * `torpor-fence`: freezes the VMs of this host that may be restored elsewhere, once its lease has
 * ended (fence.ts). A process of its own, with no connection to anything, that goes on when the
 * agent is killed or stopped. Settings: DATA_DIR, the agent's.
 */
import { messageOf } from "@torpor/service";
import { setTimeout as sleep } from "node:timers/promises";
import { identify } from "@torpor/service/processes";
import { FenceFiles } from "./files.ts";
import { Fence } from "./fence.ts";

const LOOK_EVERY_MS = 100;
const BEAT_EVERY_LOOKS = 5;

const say = (level: string) => (facts: object, message: string) =>
  process.stdout.write(
    `${JSON.stringify({ level, time: new Date().toISOString(), name: "torpor-fence", ...facts, msg: message })}\n`,
  );
const log = { warn: say("warn"), error: say("error"), info: say("info") };

const self = identify(process.pid);
if (self === undefined) throw new Error("this process cannot find itself in /proc: mount it");
const files = new FenceFiles(process.env["DATA_DIR"] ?? "/var/lib/torpor");
const fence = new Fence(files, log);
await files.prepare();
log.info({ dataDir: files.dataDir, pid: self.pid }, "torpor-fence started");
let failure: string | undefined;
for (let round = 0; ; round += 1) {
  try {
    await fence.look();
    // After the look: it says that looking works.
    if (round % BEAT_EVERY_LOOKS === 0) await files.writeLife(self);
    failure = undefined;
  } catch (error) {
    const reason = messageOf(error);
    if (reason !== failure)
      log.error({ reason }, "a look failed; it is tried again until it succeeds");
    failure = reason;
  }
  await sleep(LOOK_EVERY_MS);
}
