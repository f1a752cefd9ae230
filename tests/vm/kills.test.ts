/**
 * kill -9 in the middle of a pause and of a resume, on real virtual machines: the operation ends,
 * the sandbox has the state that the API reports, and its memory is unchanged.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { draws, startVmFleet, type TestFleet, until } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const MAX_TRIES = 5;

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startVmFleet();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

type Body = Record<string, unknown>;
/** Repeats a request on 5xx and on broken connections, as the SDKs do. */
async function insist(
  what: () => Promise<{ status: number; body: Body }>,
): Promise<{ status: number; body: Body }> {
  return await until(
    "an answer",
    async () => {
      const answer = await what().catch(() => undefined);
      return answer !== undefined && answer.status < 500 ? answer : undefined;
    },
    90_000,
  );
}

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
  sandbox: Body;
  path: string;
  operationPath: string;
  /** Response to the verb, which is sent a second time. */
  waiting: Promise<{ status: number; body: Body }>;
}

/** Creates a sandbox with x = 42 on the host that may be the victim, and begins `verb`. */
async function begin(verb: Verb): Promise<Begun> {
  const created = await fleet.call("POST", "/v1/sandboxes", {
    body: { template_name: "code-interpreter" },
  });
  expect(created.status, JSON.stringify(created.body)).toBe(201);
  const sandbox = created.body;
  const path = `/v1/sandboxes/${String(sandbox["id"])}`;
  await fleet.guest(sandbox, "/execute", { language: "python", code: "x = 42" });
  if (verb === "resume") await fleet.call("POST", `${path}/pause`);
  const { body: operation } = await fleet.call("POST", `${path}/${verb}`, {
    headers: { prefer: "respond-async" },
  });
  const waiting = insist(() => fleet.call("POST", `${path}/${verb}`));
  return { sandbox, path, operationPath: `/v1/operations/${String(operation["id"])}`, waiting };
}

/** False when the operation ended before a poll saw it under way, as on a busy machine. */
async function isCaught({ sandbox, operationPath }: Begun, verb: Verb): Promise<boolean> {
  const seen = await until("the host is in the middle of it", async () => {
    if (await isInTheMiddle(String(sandbox["id"]), verb)) return "caught";
    const { body: operation } = await fleet.call("GET", operationPath);
    return operation["status"] === "succeeded" ? "over" : undefined;
  });
  return seen === "caught";
}

async function beginAndCatch(verb: Verb): Promise<Begun> {
  for (let tries = 0; tries < MAX_TRIES; tries += 1) {
    const begun = await begin(verb);
    if (await isCaught(begun, verb)) return begun;
    await begun.waiting;
    await fleet.call("DELETE", begun.path);
  }
  throw new Error(`no ${verb} was seen while it was under way, ${MAX_TRIES} times in a row`);
}

async function survives(victim: string, verb: Verb): Promise<void> {
  await fleet.call("POST", "/v1/hosts/host-2/cordon");
  const { sandbox, path, operationPath, waiting } = await beginAndCatch(verb);
  await fleet.fleet.kill(victim);
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  await fleet.fleet.startComponent(victim);

  const answer = await waiting;
  expect(answer.status, JSON.stringify(answer.body)).toBe(200);
  expect((await fleet.call("GET", operationPath)).body).toMatchObject({ status: "succeeded" });
  expect((await fleet.call("GET", path)).body).toMatchObject({
    status: verb === "pause" ? "paused" : "running",
  });
  if (verb === "pause") {
    const resumed = await fleet.call("POST", `${path}/resume`);
    expect(resumed.status, JSON.stringify(resumed.body)).toBe(200);
  }
  const printed = await insist(() =>
    fleet.guest(sandbox, "/execute", { language: "python", code: "print(x)" }),
  );
  expect(printed.body).toMatchObject({ stdout: "42\n" });
  await fleet.call("DELETE", path);
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
