/**
 * A fleet of 0.1.0 (passwords on the NATS servers, one key for all data planes, no TLS) moves to
 * keys, certificates and tickets, in the steps of docs/operate/upgrades.md. A sandbox runs all the
 * time, and the other host moves last.
 */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { publicKeyOf } from "@torpor/bus";
import { natsUserOf, tlsFilesOf, type NatsUser } from "@torpor/fleet";
import {
  insist,
  readGuestFile,
  startTestFleet,
  type TestFleet,
  until,
  writeGuestFile,
} from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, expect, test } from "vitest";
import { reloadNats, writeNats } from "./support/nats-users.ts";

type Env = Record<string, string>;
const HOSTS = ["host-1", "host-2"];
const PASSWORD = "password of 0.1.0";
const LIMIT_MS = 60_000;
const IDENTITY = ["NATS_SEED_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE"];

let fleet: TestFleet;
let sql: postgres.Sql;
/** Environment of each program as the fleet planned it. */
const planned = new Map<string, Env>();
const secretFile = (name: string) => join(fleet.fleet.dir, "secrets", name);
const url = (scheme: string) => fleet.fleet.state.natsUrl.replaceAll("tls:", scheme);

beforeAll(async () => {
  fleet = await startTestFleet({ hosts: 2, schedulers: 1, gateways: 1 });
  sql = postgres(fleet.fleet.state.databaseUrl, { max: 1, onnotice: () => {} });
  for (const name of [...HOSTS, "scheduler-1", "gateway-1"])
    planned.set(name, { ...fleet.fleet.component(name).env });
  await writeFile(secretFile("nats-password"), PASSWORD);
  await writeFile(secretFile("host-data-key"), "the key of the whole fleet");
  // A migration leaves the hosts of an existing database like this.
  await sql`UPDATE host_admissions SET nats_public_key = NULL, admitted_by = 'migration'`;
});
afterAll(async () => {
  await sql.end({ timeout: 5 });
  await fleet[Symbol.asyncDispose]();
});

async function keyOf(name: string): Promise<string> {
  return publicKeyOf(await readFile(secretFile(`nats-${name}.seed`), "utf8"));
}

/** Restarts a program with a changed environment. */
async function restartWith(name: string, change: (env: Env) => Env): Promise<void> {
  const component = fleet.fleet.component(name);
  await fleet.fleet.kill(name);
  component.env = change(component.env);
  await fleet.fleet.startComponent(name);
}

const without = (env: Env, names: string[]): Env =>
  Object.fromEntries(Object.entries(env).filter(([name]) => !names.includes(name)));
const asOf010 = (name: string) => (env: Env) => ({
  ...without(env, [...IDENTITY, "FLEET_CA_CERT_FILE", "FLEET_CA_KEY_FILE", "HOST_TLS"]),
  NATS_URL: url("nats:"),
  NATS_USER: HOSTS.includes(name) ? natsUserOf(name) : "control",
  NATS_PASSWORD_FILE: secretFile("nats-password"),
  HOST_DATA_KEY_FILE: secretFile("host-data-key"),
});
/**
 * Environment with the program's key and certificate, and with the fleet's key for older programs.
 */
const withIdentity = (name: string) => () => ({
  ...without(planned.get(name) ?? {}, ["HOST_TLS"]),
  HOST_DATA_KEY_FILE: secretFile("host-data-key"),
});
const asPlanned = (name: string) => () => ({ ...planned.get(name) });

async function users(given: { keys: string[]; passwords: string[] }): Promise<NatsUser[]> {
  const of = async (name: string) => ({
    publicKeys: given.keys.includes(name) ? [await keyOf(name)] : [],
    password: given.passwords.includes(name) ? PASSWORD : undefined,
  });
  const hosts = await Promise.all(HOSTS.map(async (hostId) => ({ hostId, ...(await of(hostId)) })));
  return [await of("control"), ...hosts];
}

async function ready(hostId: string): Promise<void> {
  await until(
    `${hostId} is ready`,
    async () => (await insist(() => fleet.client.hosts.get(hostId))).state === "ready",
    LIMIT_MS,
  );
}

async function addressOf(hostId: string): Promise<string> {
  const [row] = await sql`SELECT data_plane_url FROM hosts WHERE id = ${hostId}`;
  return String(row?.["data_plane_url"]);
}

test(
  "it moves to keys, certificates and tickets, step by step, and a sandbox runs on",
  { timeout: 6 * LIMIT_MS },
  async () => {
    const all = ["control", ...HOSTS];
    const tls = tlsFilesOf(fleet.fleet.dir, "server");
    // The fleet of 0.1.0.
    await writeNats(fleet, await users({ keys: [], passwords: all }), null);
    await fleet.fleet.kill("nats");
    await fleet.fleet.startComponent("nats");
    for (const name of ["scheduler-1", "gateway-1", ...HOSTS])
      await restartWith(name, asOf010(name));
    for (const hostId of HOSTS) await ready(hostId);
    // Hosts of 0.1.0 register no key for tickets.
    await sql`UPDATE hosts SET ticket_key = NULL`;
    // Requests are repeated as the SDKs do: a restart of the gateway breaks its connections.
    const sandbox = await insist(() => fleet.createSandbox());
    expect(sandbox).toMatchObject({ status: "running" });
    const hostId = sandbox.node_id ?? "";
    const [neighbour = ""] = HOSTS.filter((one) => one !== hostId);
    await insist(() => writeGuestFile(sandbox, "/workspace/a", "kept"));
    const isThere = () => insist(() => readGuestFile(sandbox, "/workspace/a"));
    const pidOf = async () => {
      const { healthUrl = "" } = fleet.fleet.component(hostId);
      // A connection from before a restart of the agent breaks.
      const look = async () =>
        (await fetch(healthUrl)).json() as Promise<{ vms: { sandboxId: string; pid?: number }[] }>;
      const { vms } = await until("the host says what runs", () => look().catch(() => undefined));
      return vms.find((vm) => vm.sandboxId === sandbox.id)?.pid;
    };
    const pid = await pidOf();
    expect(pid).toBeGreaterThan(0);
    const goesOn = async () => {
      expect(await isThere()).toBe("kept");
      expect(await pidOf()).toBe(pid);
    };
    await goesOn();

    // 1. The servers accept TLS, and know keys besides the passwords.
    await writeNats(fleet, await users({ keys: all, passwords: all }), {
      ...tls,
      takesPlain: true,
    });
    await fleet.fleet.kill("nats");
    await fleet.fleet.startComponent("nats");
    for (const one of HOSTS) await ready(one);
    await goesOn();

    // 2. Schedulers, then gateways, get keys and certificates. They still show the fleet's key.
    for (const name of ["scheduler-1", "gateway-1"]) await restartWith(name, withIdentity(name));
    await goesOn();

    // 3. Hosts, one by one.
    await restartWith(hostId, withIdentity(hostId));
    await ready(hostId);
    await until("it is reached by TLS", async () =>
      (await addressOf(hostId)).startsWith("https://"),
    );
    expect(await addressOf(neighbour)).toMatch(/^http:/);
    await goesOn();
    await insist(() => fleet.client.sandboxes.pause(sandbox.id));
    await insist(() => fleet.client.sandboxes.resume(sandbox.id));
    expect(await isThere()).toBe("kept");
    await restartWith(neighbour, withIdentity(neighbour));
    await ready(neighbour);

    // 4. No program needs the fleet's key, a password or a server without TLS any more.
    await writeNats(fleet, await users({ keys: all, passwords: [] }), tls);
    await fleet.fleet.kill("nats");
    await fleet.fleet.startComponent("nats");
    for (const name of ["scheduler-1", "gateway-1", ...HOSTS])
      await restartWith(name, asPlanned(name));
    for (const one of HOSTS) await ready(one);
    await reloadNats(fleet);
    expect(await isThere()).toBe("kept");
    await insist(() => fleet.client.sandboxes.stop(sandbox.id));
  },
);
