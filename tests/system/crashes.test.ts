/**
 * kill -9 of each component while operations run: each operation still ends, and the sandbox has
 * the state that the API reports. Simulated hosts; tests/vm has the same on real VMs.
 */
import { startTestFleet, type TestFleet } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";
import { insist, transition } from "./support/insist.ts";

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startTestFleet({ gateways: 2 });
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

type Body = Record<string, unknown>;
const VICTIMS = ["gateway-1", "scheduler-1", "host-1", "nats", "postgres"];

async function survives(victim: string): Promise<void> {
  const made = await Promise.all(
    Array.from({ length: 3 }, async (_, at) => {
      const answer = await fleet.call("POST", "/v1/sandboxes", {
        body: { template_name: "code-interpreter" },
        headers: { "idempotency-key": `${victim}-${at}` },
      });
      expect(answer.status, JSON.stringify(answer.body)).toBe(201);
      expect(
        (await fleet.guest(answer.body, "/execute", { language: "python", code: `x = ${at + 40}` }))
          .status,
      ).toBe(200);
      return answer.body;
    }),
  );
  for (const verb of ["pause", "resume"]) {
    const answers = made.map((sandbox) =>
      transition(fleet, `/v1/sandboxes/${String(sandbox["id"])}`, verb),
    );
    await new Promise((resolve) => setTimeout(resolve, 60));
    await fleet.fleet.kill(victim);
    await new Promise((resolve) => setTimeout(resolve, 300));
    await fleet.fleet.startComponent(victim);
    for (const answer of await Promise.all(answers))
      expect(answer.status, `${verb}: ${JSON.stringify(answer.body)}`).toBe(200);
  }
  for (const [at, sandbox] of made.entries()) {
    const seen = await insist(() => fleet.call("GET", `/v1/sandboxes/${String(sandbox["id"])}`));
    expect(seen.body).toMatchObject({ status: "running" });
    expect(seen.body["operation"]).toBeUndefined();
    const printed = await insist(() =>
      fleet.guest(sandbox, "/execute", { language: "python", code: "print(x)" }),
    );
    expect(printed.body, JSON.stringify(printed.body)).toMatchObject({ stdout: `${at + 40}\n` });
    await insist(() => fleet.call("DELETE", `/v1/sandboxes/${String(sandbox["id"])}`));
  }
  const hosts = await insist(() => fleet.call("GET", "/v1/hosts"));
  await expect
    .poll(
      async () =>
        ((await fleet.call("GET", "/v1/hosts")).body["data"] as { used: Body }[]).map(
          ({ used }) => used["memory_mb"],
        ),
      {
        timeout: 60_000,
      },
    )
    .toEqual((hosts.body["data"] as unknown[]).map(() => 0));
}

test.each(VICTIMS)(
  "S3, S33, S39, S40: kill -9 of %s while sandboxes are paused and resumed",
  survives,
);
