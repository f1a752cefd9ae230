/**
 * `down` shuts guests down as a stop does. A guest that does not answer is reported, and its VM is
 * ended all the same. Simulated hosts.
 */
import { listVmProcesses } from "@torpor/fleet";
import { signalProcess } from "@torpor/service";
import { startTestFleet, type TestFleet } from "@torpor/testkit";
import { afterEach, expect, test } from "vitest";

let fleet: TestFleet;
afterEach(async () => await fleet[Symbol.asyncDispose]());

test("only the guest that stands still is told of", async () => {
  fleet = await startTestFleet({ hosts: 2, schedulers: 1 });
  for (let count = 0; count < 3; count += 1) await fleet.createSandbox();
  const [hung] = await listVmProcesses(fleet.fleet.dir);
  if (hung === undefined) throw new Error("three run");
  signalProcess(hung, "SIGSTOP");
  const said: string[] = [];
  await fleet.fleet.down({ say: (line) => said.push(line) });
  expect(said).toEqual([
    expect.stringMatching(
      new RegExp(`^${hung.hostId}: ${hung.sandboxId} was not shut down.*did not answer`),
    ),
  ]);
  expect(await listVmProcesses(fleet.fleet.dir)).toEqual([]);
}, 240_000);
