/**
 * A host without a bus, as a process that a test can lose: `node host-process.ts <dir> <driver> <crashAt> <step>…`. It takes over what is in <dir>, then carries the steps out one after
 * the other, and prints each observation as a line. A step is a command, or a call of the guest: `{"path", "body"}`. Right before the <crashAt>th durable step of the last
 * command (0: never; one more than there are: at its end) it kills itself: no handler runs, nothing is flushed.
 */
import { subscribe } from "node:diagnostics_channel";
import type { VmCommand } from "@torpor/contracts";
import { until } from "@torpor/testkit/basics";
import { DURABLE_STEP_CHANNEL, type DurableStep } from "../../src/host/durable-step.ts";
import { type DriverName, driverNamed } from "./drivers.ts";
import { TestHost } from "./test-host.ts";

export interface GuestCall {
  path: string;
  body: object;
}

const STORED_LIMIT_MS = 45_000;
const [dir = "", driverName = "", crashAtText = "0", ...texts] = process.argv.slice(2);
const todo = texts.map((text) => JSON.parse(text) as VmCommand | GuestCall);
const crashAt = Number(crashAtText);
const write = (line: object) => process.stdout.write(`${JSON.stringify(line)}\n`);
const die = () => process.kill(process.pid, "SIGKILL");

const host = new TestHost(dir, driverNamed(driverName as DriverName), (observation) => write({ observation }));

let steps = 0;
let counting = false;
subscribe(DURABLE_STEP_CHANNEL, (message) => {
  const { name, when } = message as DurableStep;
  if (!counting || when !== "before") return;
  steps += 1;
  write({ name });
  if (steps === crashAt) die();
});

await host.supervisor.adopt();
for (const step of todo) {
  if ("path" in step) await host.guest(step.path, step.body);
  else await carryOut(step, step === todo.at(-1));
}
if (crashAt > steps) die();
await host.close();
process.exit(0);

async function carryOut(command: VmCommand, isLast: boolean): Promise<void> {
  counting = isLast;
  const { state } = await host.carryOut(command);
  // What runs in the background now (the copy to the store) is not part of the command.
  counting = false;
  const isStored = () => host.seen.some(({ snapshot }) => snapshot !== undefined && snapshot.storeKey !== null);
  if (command.kind === "pause" && state === "paused" && crashAt === 0) await until("the copy in the store", isStored, STORED_LIMIT_MS);
}
