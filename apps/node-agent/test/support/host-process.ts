/**
 * A host without a bus, as a process that a test can lose: `node host-process.ts <dir> <crashAt> <step>…`. It takes over what is in <dir>, then carries the steps out one after
 * the other, and prints each observation as a line. A step is a command, or a call of the guest: `{"path", "body"}`. Right before the <crashAt>th durable step of the last
 * command (0: never; one more than there are: at its end) it kills itself: no handler runs, nothing is flushed.
 */
import { subscribe } from "node:diagnostics_channel";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Observation, VmCommand } from "@torpor/contracts";
import { createLogger } from "@torpor/service";
import { SimulatedDriver } from "../../src/drivers/simulated/simulated.ts";
import { DURABLE_STEP_CHANNEL, type DurableStep } from "../../src/host/durable-step.ts";
import { plainIsolation } from "../../src/host/isolation.ts";
import { httpGuest } from "../../src/lifecycle/guest.ts";
import { VmStore } from "../../src/lifecycle/record.ts";
import { Supervisor } from "../../src/lifecycle/supervisor.ts";
import { Activity } from "../../src/shell/activity.ts";
import { fileSnapshotStore } from "../../src/store-file.ts";

export interface GuestCall {
  path: string;
  body: object;
}

const [dir = "", crashAtText = "0", ...texts] = process.argv.slice(2);
const todo = texts.map((text) => JSON.parse(text) as VmCommand | GuestCall);
const crashAt = Number(crashAtText);
const imagesDir = join(dir, "../images");
const seen: Observation[] = [];
const write = (line: object) => process.stdout.write(`${JSON.stringify(line)}\n`);
const die = () => process.kill(process.pid, "SIGKILL");

const driver = new SimulatedDriver();
const store = new VmStore(dir);
const supervisor = new Supervisor(
  {
    hostId: "host-1",
    store,
    driver,
    isolation: plainIsolation(undefined),
    guest: httpGuest(driver),
    snapshots: fileSnapshotStore({ storeDir: join(dir, "store"), imagesDir, uid: undefined }),
    activity: new Activity(),
    imagesDir,
    commit: async () => ({ kind: "granted" }) as const,
    uid: undefined,
    log: createLogger({ name: "host", level: "silent" }),
  },
  (observation) => {
    seen.push(observation);
    write({ observation });
  },
);

let steps = 0;
let counting = false;
subscribe(DURABLE_STEP_CHANNEL, (message) => {
  const { name, when } = message as DurableStep;
  if (!counting || when !== "before") return;
  steps += 1;
  write({ name });
  if (steps === crashAt) die();
});

await supervisor.adopt();
for (const step of todo) {
  if ("path" in step) await callGuest(step);
  else await carryOut(step, step === todo.at(-1));
}
if (crashAt > steps) die();
process.exit(0);

async function carryOut(command: VmCommand, isLast: boolean): Promise<void> {
  counting = isLast;
  await supervisor.execute(command);
  const ended = () => seen.some(({ operation, busyWith }) => operation?.id === command.operationId && busyWith === undefined);
  while (!ended()) await sleep(5);
  // What runs in the background now (the copy to the store) is not part of the command.
  counting = false;
  const isStored = () => seen.some(({ snapshot }) => snapshot !== undefined && snapshot.storeKey !== null);
  const isPaused = seen.at(-1)?.state === "paused";
  if (command.kind === "pause" && isPaused && crashAt === 0) while (!isStored()) await sleep(5);
}

async function callGuest({ path, body }: GuestCall): Promise<void> {
  const { sandboxId } = todo.flatMap((step) => ("spec" in step ? [step.spec] : []))[0] ?? { sandboxId: "" };
  const record = await store.read(sandboxId);
  const address = record === undefined ? undefined : await driver.guestAddress(store.vmOf(record));
  if (address?.kind !== "tcp") throw new Error("no guest runs");
  const response = await fetch(`http://${address.host}:${address.port}${path}`, { method: "POST", body: JSON.stringify(body) });
  await response.body?.cancel();
}
