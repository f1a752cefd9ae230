/**
 * Environment variables between the gateway and a host: encrypted in the database, and, in the one
 * command that needs them, sealed for its host, or plain where the host cannot open them.
 */
import { request, connectBus } from "@torpor/bus";
import {
  decoder,
  type HostId,
  LeaseReply,
  type SandboxId,
  subjects,
  variablesContext,
  VmCommand,
} from "@torpor/contracts";
import { sealEnvVars } from "@torpor/db";
import { boxPublicKey, createBoxKey, createEnvelope, keysOf, openBox } from "@torpor/service";
import { aHost, aSandbox, silentLog, until } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";
import { environmentOf, messageOf } from "../src/operations/environment.ts";
import { ControlPlane } from "./support/control-plane.ts";
import { ScriptedHost } from "./support/scripted-host.ts";

const HOST_2 = "host-2" as HostId;

const [OLD, NEW] = ["o".repeat(64), "n".repeat(64)];
const VARIABLES = { TOKEN: "hunter2-is-secret" };
const envelope = createEnvelope(keysOf(NEW, [OLD]));

let plane: ControlPlane;
let host: ScriptedHost;
beforeAll(async () => {
  plane = await ControlPlane.start(["host-1", "host-2"], 1, [], envelope);
  const capacity = { vcpu: 20, memoryMib: 1_280, diskMib: 1_280 };
  host = await ScriptedHost.join(plane.nats, "host-1", { capacity });
});
afterAll(async () => {
  await host[Symbol.asyncDispose]();
  await plane[Symbol.asyncDispose]();
});

/** Tables in which the secret can be read. */
async function readableIn(): Promise<string[]> {
  const { sql } = plane.database;
  const tables = await sql`SELECT tablename FROM pg_tables WHERE schemaname = 'public'`;
  const found = await Promise.all(
    tables.map(async ({ tablename }) => {
      const name = String(tablename);
      const rows =
        await sql`SELECT 1 FROM ${sql(name)} AS one WHERE one::text LIKE '%hunter2%' LIMIT 1`;
      return rows.length > 0 ? [name] : [];
    }),
  );
  return found.flat();
}
/** Variables as a gateway with that key stores them. */
async function sealedBy(secret: string | undefined) {
  const sandbox = aSandbox();
  const sealer = createEnvelope(secret === undefined ? undefined : keysOf(secret));
  return { ...sandbox, ...(await sealEnvVars(sealer, sandbox.id, VARIABLES)) };
}

test("EN1: the create's command has them, and nothing in the database; later commands do not, and with the sandbox they are gone", async () => {
  const create = await plane.create(await sealedBy(NEW));
  const command = await host.told(create.id);
  expect(command).toMatchObject({ kind: "create", spec: { envVars: VARIABLES } });
  expect(command).not.toHaveProperty("sealedEnvVars");
  await host.complete(command);
  const { sandboxId } = create;
  await plane.reaches(sandboxId, "running");
  const pause = await plane.ask(sandboxId, "pause");
  expect(await host.told(pause.id)).toMatchObject({ kind: "pause", spec: { envVars: {} } });
  expect(await readableIn()).toEqual([]);
  expect((await plane.sandbox(sandboxId)).envVarsSealed).not.toBeNull();
  await plane.ask(sandboxId, "delete");
  await until("it is being deleted", async () => {
    const { state, envVarsSealed } = await plane.sandbox(sandboxId);
    return state === "deleting" || state === "deleted" ? envVarsSealed === null : false;
  });
});

test("those of before there was a key, or of the key before, reach their host too", async () => {
  for (const secret of [undefined, OLD]) {
    const create = await plane.create(await sealedBy(secret));
    expect(await host.told(create.id)).toMatchObject({ spec: { envVars: VARIABLES } });
    const rows = await plane.database.sql`SELECT payload::text FROM outbox
      WHERE payload ->> 'operationId' = ${create.id} AND subject LIKE '%.cmd.create'`;
    expect(rows).toHaveLength(1);
    // As in the sandbox's row: a scheduler of an earlier version may publish what was plain there.
    expect(JSON.stringify(rows).includes("hunter2")).toBe(secret === undefined);
    await host.complete(await host.told(create.id));
    await plane.reaches(create.sandboxId, "running");
    const pause = await plane.ask(create.sandboxId, "pause");
    expect(await host.told(pause.id)).toMatchObject({ kind: "pause", spec: { envVars: {} } });
  }
});

test("EN2: for a host that has a key they are sealed in the stream, and it alone opens them", async () => {
  const key = createBoxKey();
  const agent = await connectBus({ ...plane.nats.as("host-2"), name: "host-2", hostId: HOST_2 });
  const labels = { has: "a key" };
  const register = async (commandKey: string) => {
    const registration = aHost("host-2", { labels, commandKey });
    const asked = subjects.request(HOST_2, "register");
    return await request(agent, asked, registration, {
      timeoutMs: 10_000,
      decode: decoder(LeaseReply),
    });
  };
  expect(await register(Buffer.alloc(32).toString("base64url"))).toMatchObject({
    value: { granted: false, reason: expect.stringContaining("commandKey") },
  });
  expect(await register(boxPublicKey(key))).toMatchObject({ value: { granted: true } });
  // With a key in the database, and without.
  for (const secret of [NEW, undefined]) {
    const create = await plane.create({ ...(await sealedBy(secret)), placementLabels: labels });
    // No host takes the command: it stays in the stream, where any reader of all subjects sees it.
    const streams = (await plane.bus.manager()).streams;
    const subject = subjects.command(HOST_2, "create");
    const text = await until("it is in the stream", async () => {
      const found = await streams
        .getMessage("COMMANDS", { last_by_subj: subject })
        .catch(() => null);
      const written = found === null ? "" : new TextDecoder().decode(found.data);
      return written.includes(create.id) ? written : undefined;
    });
    expect(text).not.toContain("hunter2");
    expect(text).not.toContain("TOKEN");
    const command = decoder(VmCommand)(subject, new TextEncoder().encode(text));
    const { spec, sealedVariables } = command;
    expect(spec.envVars).toEqual({});
    expect(Object.keys(command)).not.toContain("recipientKey");
    const sealed = sealedVariables ?? { ephemeralKey: "", ciphertext: "" };
    const opened = openBox(key, variablesContext(command), sealed);
    expect(JSON.parse(opened)).toEqual(VARIABLES);
  }
  await agent.close();
});

test("a create whose key is not here waits, until it is over or another scheduler has the key", async () => {
  const create = await plane.create(await sealedBy("x".repeat(64)), { deadlineMs: 1_500 });
  expect(await plane.becomes(create.id, "failed", "cancelled", "superseded")).toBeDefined();
  const after = await plane.create(await sealedBy(NEW));
  expect(await host.told(after.id)).toMatchObject({ spec: { envVars: VARIABLES } });
});

test("without a key they are stored as they are, and so is the command", async () => {
  const none = createEnvelope(undefined);
  const id = "1763309903rt5vs4lm" as SandboxId;
  const stored = await sealEnvVars(none, id, VARIABLES);
  const deps = { envelope: none, log: silentLog() };
  const environment = await environmentOf(deps, { id, ...stored }, null);
  expect(environment).toEqual({ envVars: VARIABLES });
  expect(await messageOf(none, { any: "payload" })).toEqual({ any: "payload" });
});
