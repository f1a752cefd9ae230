/** Renewals of certificates by a gateway, over a real bus and with a real database. */
import { X509Certificate } from "node:crypto";
import { request, type Bus, connectBus } from "@torpor/bus";
import {
  CertificateReply,
  decoder,
  type HostId,
  subjects,
  unverifiedHostId,
} from "@torpor/contracts";
import { createHostToken, findHostAdmission, joinHost, registerHost, revokeHost } from "@torpor/db";
import { identityIn } from "@torpor/identity";
import { Authority, createAuthority, createRequest, keyIn } from "@torpor/identity/authority";
import {
  aHost,
  type NatsServer,
  openTestDatabase,
  type Databases,
  silentLog,
  startNats,
  sharedPostgres,
  type TestDatabase,
} from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";
import { handleRenewals } from "../src/hosts/handle-renewals.ts";
import { fleetIdentity } from "../src/hosts/fleet-identity.ts";

const DAYS = 30;
const HOSTS = ["host-a", "host-b", "host-c"];
const decodeReply = decoder(CertificateReply);

let postgres: Databases;
let database: TestDatabase;
let nats: NatsServer;
let control: Bus;
let stop: () => Promise<void>;
const requests = new Map<string, string>();

beforeAll(async () => {
  postgres = sharedPostgres();
  database = await openTestDatabase(postgres);
  nats = await startNats(HOSTS);
  control = await connectBus({ ...nats.as(), name: "gateway" });
  const authority = await Authority.open(await createAuthority());
  stop = handleRenewals(control, {
    db: database.db,
    fleetIdentity: fleetIdentity(nats.url, null, { authority, days: DAYS }),
    log: silentLog(),
  });
  // A request that comes before the server knows of the subscription finds no handler.
  await control.connection.flush();
  for (const hostId of HOSTS) await join(hostId);
});
afterAll(async () => {
  await stop();
  await control.close();
  await nats[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
  await postgres[Symbol.asyncDispose]();
});

async function join(name: string): Promise<void> {
  const hostId = unverifiedHostId(name);
  const { requestPem } = await createRequest();
  requests.set(hostId, requestPem);
  const secret = `token of ${hostId}`;
  const token = { hostId, dataPlaneHost: "10.0.0.7", createdBy: "test", lifetimeSeconds: 60 };
  await createHostToken(database.db, { ...token, secret });
  const certificateKeySha256 = (await keyIn(requestPem)) ?? "";
  const natsPublicKey = `key of ${hostId}`;
  const joining = { secret, hostId, natsPublicKey, certificateKeySha256 };
  await joinHost(database.db, joining, new Date(Date.now() + 1_000));
}

/** Sends a request as the host `name`, which may name another host. */
async function renew(name: string, given: { hostId?: string; request?: string } = {}) {
  const asker = unverifiedHostId(name);
  const { hostId = asker, request: certificateRequest = requests.get(asker) ?? "" } = given;
  const bus = await connectBus({ ...nats.as(asker), name: asker, hostId: asker });
  const question = { type: "certificate", version: 1, hostId, certificateRequest };
  const options = { timeoutMs: 10_000, decode: decodeReply };
  const reply = await request(bus, subjects.request(asker, "certificate"), question, options);
  await bus.close();
  return reply.kind === "answer" ? reply.value : reply;
}
const refused = (reason: string) => ({ granted: false, reason: expect.stringContaining(reason) });

test("RN1: a host gets its own name, for its own key, again and again, and where it may be stays", async () => {
  const { granted, certificate } = (await renew("host-a")) as CertificateReply;
  expect(granted).toBe(true);
  const made = new X509Certificate(certificate ?? "");
  expect(identityIn(made.subjectAltName)).toEqual({ role: "host", hostId: "host-a" });
  expect(Date.parse(made.validTo) - Date.now()).toBeGreaterThan((DAYS - 1) * 86_400_000);
  expect(await findHostAdmission(database.db, "host-a" as HostId)).toMatchObject({
    certificateExpiresAt: new Date(made.validTo),
    dataPlaneHost: "10.0.0.7",
    revokedAt: null,
  });
  // The first reply may have been lost.
  expect(await renew("host-a")).toMatchObject({ granted: true });
  expect(await renew("host-a", { hostId: "host-b" })).toEqual(refused("may not speak for"));
  const { requestPem: request } = await createRequest();
  expect(await renew("host-a", { request })).toEqual(refused("another key"));
  expect(await renew("host-a", { request: "what" })).toEqual(refused("no request"));
  // A flood of one host costs no signatures, and the others nothing.
  for (let times = 0; times < 6; times += 1) await renew("host-a");
  expect(await renew("host-a")).toEqual(refused("Try again in"));
  expect(await renew("host-b")).toMatchObject({ granted: true });
});

test("RN2: one that was revoked or retired, or did not join by a token, gets none", async () => {
  await revokeHost(database.db, "host-b" as HostId, "test");
  expect(await renew("host-b")).toEqual(refused("was revoked"));
  await registerHost(database.db, aHost("host-c"), 10_000, 1);
  await database.sql`UPDATE hosts SET state = 'retired' WHERE id = 'host-c'`;
  expect(await renew("host-c")).toEqual(refused("was retired"));
  await database.sql`DELETE FROM host_admissions WHERE host_id = 'host-c'`;
  expect(await renew("host-c")).toEqual(refused("did not join by a token"));
});
