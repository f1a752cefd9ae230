/**
 * A host without a bus, as a process that a test can lose:
 * `node host-process.ts <dir> <driver> <crashAt> <command>`. The host takes over <dir>, runs the
 * command, and prints a line for each durable step and for the acknowledgement. It kills itself
 * right before the <crashAt>th step, or, if the command has no such step, when its end is reported:
 * no handler runs, nothing is flushed.
 */
import { subscribe } from "node:diagnostics_channel";
import type { VmCommand } from "@torpor/contracts";
import { DURABLE_STEP_CHANNEL, type DurableStep } from "../../src/host/durable-step.ts";
import type { Submitted } from "../../src/lifecycle/context.ts";
import { type DriverName, driverNamed } from "./drivers.ts";
import { isEndOf, TestHost } from "./test-host.ts";

const [dir = "", driverName = "", crashAt = "", text = ""] = process.argv.slice(2);
const command = JSON.parse(text) as VmCommand;
const say = (line: { step: string } | { accepted: Submitted }) =>
  process.stdout.write(`${JSON.stringify(line)}\n`);
const die = () => process.kill(process.pid, "SIGKILL");

const host = new TestHost(dir, driverNamed(driverName as DriverName), (seen) => {
  if (isEndOf(command, seen)) die();
});
await host.supervisor.adopt();

let steps = 0;
subscribe(DURABLE_STEP_CHANNEL, (message) => {
  const { name, when } = message as DurableStep;
  if (when !== "before") return;
  steps += 1;
  say({ step: name });
  if (steps === Number(crashAt)) die();
});
say({ accepted: await host.supervisor.submit(command) });
