/** kill -9 in the middle of a pause and of a resume, on real virtual machines: the operation ends, the sandbox is what the API says, and its memory is what it was. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { startVmFleet, type TestFleet, until } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startVmFleet();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

type Body = Record<string, unknown>;
/** What the SDKs do on 503 and on broken connections: send it again. */
async function insist(what: () => Promise<{ status: number; body: Body }>): Promise<{ status: number; body: Body }> {
  return await until(
    "an answer",
    async () => {
      const answer = await what().catch(() => undefined);
      return answer !== undefined && answer.status < 500 ? answer : undefined;
    },
    90_000,
  );
}

/** A snapshot is being written, or a VMM reads one, and the point of no return is still ahead. */
async function isInTheMiddle(sandboxId: string, verb: "pause" | "resume"): Promise<boolean> {
  const names = await readdir(join(fleet.fleet.dir, "hosts/host-1/vm", sandboxId));
  return verb === "pause" ? names.includes("snap.1.tmp") : names.includes("snap.1") && names.includes("r2");
}

const CASES = ["gateway-1", "scheduler-1", "host-1"].flatMap((victim) => (["pause", "resume"] as const).map((verb) => ({ victim, verb })));

test.each(CASES)("S33, S39: kill -9 of $victim in the middle of a $verb", async ({ victim, verb }) => {
  // On the host that may be the victim.
  await fleet.call("POST", "/v1/hosts/host-2/cordon");
  const created = await fleet.call("POST", "/v1/sandboxes", { body: { template_name: "code-interpreter" } });
  expect(created.status, JSON.stringify(created.body)).toBe(201);
  const sandbox = created.body;
  const path = `/v1/sandboxes/${String(sandbox["id"])}`;
  await fleet.guest(sandbox, "/execute", { language: "python", code: "x = 42" });
  if (verb === "resume") await fleet.call("POST", `${path}/pause`);

  const { body: operation } = await fleet.call("POST", `${path}/${verb}`, { headers: { prefer: "respond-async" } });
  const operationPath = `/v1/operations/${String(operation["id"])}`;
  const waiting = insist(() => fleet.call("POST", `${path}/${verb}`));
  await until("the host is in the middle of it", () => isInTheMiddle(String(sandbox["id"]), verb));
  await fleet.fleet.kill(victim);
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  await fleet.fleet.startComponent(victim);

  const answer = await waiting;
  expect(answer.status, JSON.stringify(answer.body)).toBe(200);
  expect((await fleet.call("GET", operationPath)).body).toMatchObject({ status: "succeeded" });
  expect((await fleet.call("GET", path)).body).toMatchObject({ status: verb === "pause" ? "paused" : "running" });
  if (verb === "pause") {
    const resumed = await fleet.call("POST", `${path}/resume`);
    expect(resumed.status, JSON.stringify(resumed.body)).toBe(200);
  }
  const printed = await insist(() => fleet.guest(sandbox, "/execute", { language: "python", code: "print(x)" }));
  expect(printed.body).toMatchObject({ stdout: "42\n" });
  await fleet.call("DELETE", path);
});
