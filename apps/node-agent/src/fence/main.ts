/**
 * `torpor-fence`: freezes the VMs of this host that may be restored elsewhere, once the host's
 * lease has ended (fence.ts). The fence is a separate process without connections, and continues
 * when the agent is killed or stopped. Setting: DATA_DIR, as for the agent.
 */
import { messageOf } from "@torpor/service/message-of";
import { setTimeout as sleep } from "node:timers/promises";
import { identify } from "@torpor/service/processes";
import { FenceFiles } from "./files.ts";
import { Fence } from "./fence.ts";

const LOOK_EVERY_MS = 100;
const HEARTBEAT_EVERY_PROBES = 5;

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
    // After the round, because the file means that rounds succeed.
    if (round % HEARTBEAT_EVERY_PROBES === 0) await files.writeLife(self);
    failure = undefined;
  } catch (error) {
    const reason = messageOf(error);
    if (reason !== failure)
      log.error({ reason }, "round of the fence failed; retried until it succeeds");
    failure = reason;
  }
  await sleep(LOOK_EVERY_MS);
}
