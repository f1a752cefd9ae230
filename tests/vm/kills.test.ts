/** kill -9 in the middle of a pause and of a resume, on real virtual machines: the operation ends, the sandbox is what the API says, and its memory is what it was. */
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
  await until("the operation executes", async () => (await fleet.call("GET", operationPath)).body["status"] !== "waiting");
  const waiting = insist(() => fleet.call("POST", `${path}/${verb}`));
  await new Promise((resolve) => setTimeout(resolve, 400));
  const before = await fleet.call("GET", operationPath).catch(() => undefined);
  await fleet.fleet.kill(victim);
  expect(before?.body["status"], "the kill came too late to be in the middle").toBe("executing");
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  await fleet.fleet.startComponent(victim);

  const answer = await waiting;
  expect(answer.status, JSON.stringify(answer.body)).toBe(200);
  expect((await fleet.call("GET", operationPath)).body).toMatchObject({ status: "succeeded" });
  expect((await fleet.call("GET", path)).body).toMatchObject({ status: verb === "pause" ? "paused" : "running" });
  if (verb === "pause") expect((await fleet.call("POST", `${path}/resume`)).status).toBe(200);
  const printed = await insist(() => fleet.guest(sandbox, "/execute", { language: "python", code: "print(x)" }));
  expect(printed.body).toMatchObject({ stdout: "42\n" });
  await fleet.call("DELETE", path);
});
