/**
 * kill -9 in the middle of a pause and of a resume, on real virtual machines: the operation ends,
 * the sandbox has the state that the API reports, and its memory is unchanged.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import {
  draws,
  insist,
  runCode,
  type SandboxResource,
  startVmFleet,
  type TestFleet,
  until,
} from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const MAX_TRIES = 5;

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startVmFleet();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

const ANSWER_LIMIT_MS = 90_000;

/** A snapshot is being written or read, and the point of no return is still ahead. */
async function isInTheMiddle(sandboxId: string, verb: Verb): Promise<boolean> {
  const names = await readdir(join(fleet.fleet.dir, "hosts/host-1/vm", sandboxId));
  return verb === "pause"
    ? names.includes("snap.1.tmp")
    : names.includes("snap.1") && names.includes("r2");
}

const VERBS = ["pause", "resume"] as const;
type Verb = (typeof VERBS)[number];

interface Begun {
  sandbox: SandboxResource;
  operationId: string;
  /** Response to the verb, which is sent a second time. */
  waiting: Promise<unknown>;
}

/** Creates a sandbox with x = 42 on the host that may be the victim, and begins `verb`. */
async function begin(verb: Verb): Promise<Begun> {
  const { sandboxes } = fleet.client;
  const sandbox = await fleet.createSandbox();
  await runCode(sandbox, "x = 42");
  if (verb === "resume") await sandboxes.pause(sandbox.id);
  const { id: operationId } = await sandboxes.begin(sandbox.id, verb);
  const waiting = insist(() => sandboxes[verb](sandbox.id), ANSWER_LIMIT_MS);
  // `await waiting` reports a failure.
  waiting.catch(() => {});
  return { sandbox, operationId, waiting };
}

/** False when the operation ended before a poll saw it under way, as on a busy machine. */
async function isCaught({ sandbox, operationId }: Begun, verb: Verb): Promise<boolean> {
  const seen = await until("the host is in the middle of it", async () => {
    if (await isInTheMiddle(sandbox.id, verb)) return "caught";
    const { status } = await fleet.client.operations.get(operationId);
    return status === "succeeded" ? "over" : undefined;
  });
  return seen === "caught";
}

async function beginAndCatch(verb: Verb): Promise<Begun> {
  for (let tries = 0; tries < MAX_TRIES; tries += 1) {
    const begun = await begin(verb);
    if (await isCaught(begun, verb)) return begun;
    await begun.waiting;
    await fleet.client.sandboxes.delete(begun.sandbox.id);
  }
  throw new Error(`no ${verb} was seen while it was under way, ${MAX_TRIES} times in a row`);
}

async function survives(victim: string, verb: Verb): Promise<void> {
  await fleet.client.hosts.cordon("host-2");
  const { sandbox, operationId, waiting } = await beginAndCatch(verb);
  await fleet.fleet.kill(victim);
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  await fleet.fleet.startComponent(victim);

  await waiting;
  const { sandboxes, operations } = fleet.client;
  expect(await operations.get(operationId)).toMatchObject({ status: "succeeded" });
  expect(await sandboxes.get(sandbox.id)).toMatchObject({
    status: verb === "pause" ? "paused" : "running",
  });
  if (verb === "pause") await sandboxes.resume(sandbox.id);
  const printed = await insist(() => runCode(sandbox, "print(x)"), ANSWER_LIMIT_MS);
  expect(printed).toMatchObject({ stdout: "42\n" });
  await sandboxes.delete(sandbox.id);
}

/** The ordinary run does both verbs on simulated VMs (tests/system/crashes.test.ts). */
const DRAWN = VERBS[Math.floor(draws("kills")() * VERBS.length)] ?? VERBS[0];

test("S33, S39, VP1: kill -9 of host-1 in the middle of a pause or a resume, as the seed draws", () =>
  survives("host-1", DRAWN));

describe.each(["host-1", "gateway-1", "scheduler-1"])("S33, S39: kill -9 of %s", (victim) => {
  test.each(VERBS)("in the middle of a %s", { tags: ["exhaustive"] }, (verb) =>
    survives(victim, verb),
  );
});
