/**
 * Strangers at every entrance of a live fleet, and a neighbour who continues to work. No attack of
 * the table succeeds, no lease is lost, and the neighbour's requests take at most twice as long as
 * without the attack.
 *
 * Times are compared within the same minutes: each window under attack is next to a quiet window,
 * medians of many pairs decide, and attackers keep to a rate. The limit allows for the processor
 * time of the attackers' own processes.
 */
import { startTestFleet, type TestFleet } from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  ATTACKS_OF_CLIENTS,
  ATTACKS_OF_HOSTS,
  type ClientAttack,
  type HostAttack,
} from "./support/attacks.ts";
import { BY_CLIENTS } from "./support/attacks-of-clients.ts";
import { ON_HOSTS } from "./support/attacks-of-hosts.ts";
import { Neighbour, noticedIn, watchDuring } from "./support/neighbour.ts";
import {
  type AttackBody,
  controlBus,
  HONEST_HOST,
  hostBus,
  HOSTILE_HOST,
  pathOf,
  type Target,
  type Try,
} from "./support/target.ts";

/** Pairs of windows, at least. */
const PAIRS = 7;

const started = new AsyncDisposableStack();
let fleet: TestFleet;
let shared: Omit<Target, "sandbox">;
beforeAll(async () => {
  fleet = started.use(await startTestFleet({ gatewayEnv: { RATE_LIMIT_PER_MINUTE: "60000" } }));
  const sql = postgres(fleet.fleet.state.databaseUrl, { max: 2, onnotice: () => {} });
  started.defer(() => sql.end());
  const [host, control] = [await hostBus(fleet), await controlBus(fleet)];
  started.defer(async () => void (await Promise.all([host.close(), control.close()])));
  await fleet.call("POST", "/v1/organizations", { body: { name: "others" } });
  const key = { name: "theirs", organization: "others", scopes: ["read", "lifecycle", "exec"] };
  const tenantKey = String((await fleet.call("POST", "/v1/keys", { body: key })).body["secret"]);
  await fleet.call("POST", `/v1/hosts/${HONEST_HOST}/cordon`);
  const ownOfHost = await createOn(HOSTILE_HOST);
  await fleet.call("POST", `/v1/hosts/${HONEST_HOST}/uncordon`);
  await fleet.call("POST", `/v1/hosts/${HOSTILE_HOST}/cordon`);
  const create = (body?: AttackBody) => createOn(HONEST_HOST, body);
  shared = { fleet, sql, host, control, tenantKey, ownOfHost, create };
});
afterAll(async () => {
  await started.disposeAsync();
});

/** Creates a sandbox on that host; the other host is cordoned. */
async function createOn(hostId: string, body: AttackBody = {}): Promise<AttackBody> {
  const given = { template_name: "code-interpreter", ...body };
  const answer = await fleet.call("POST", "/v1/sandboxes", { body: given });
  expect(answer.status, JSON.stringify(answer.body)).toBe(201);
  expect(answer.body).toMatchObject({ node_id: hostId });
  return answer.body;
}

async function comesToNothing(attempt: Try): Promise<void> {
  const sandbox = await shared.create();
  const { url, apiKey } = fleet;
  await using neighbour = new Neighbour({ url, apiKey, id: String(sandbox["id"]) });
  // The first window is a warm-up.
  await neighbour.window();
  const target = { ...shared, sandbox };
  const tried = await attempt(target);
  const pairs = await watchDuring(neighbour, (signal) => tried.during(signal), PAIRS);
  await tried.check();
  const { body } = await fleet.call("GET", `/v1/hosts/${HONEST_HOST}/events?limit=1000`);
  const lost = (body["data"] as AttackBody[]).filter(({ fact }) => fact === "lost");
  expect(lost, "no lease is lost").toEqual([]);
  const { get, transition, atMost } = noticedIn(pairs);
  const told = `of ${pairs.length} pairs, ${JSON.stringify(pairs.slice(-3))}`;
  expect(get, `times as long for a GET, ${told}`).toBeLessThanOrEqual(atMost);
  expect(transition, `times as long for a transition, ${told}`).toBeLessThanOrEqual(atMost);
  expect((await fleet.call("DELETE", pathOf(sandbox))).status).toBe(200);
}

type Named = { attack: string; outcome: string; isOrdinary?: boolean };
const tagsOf = ({ isOrdinary = false }: Named) => (isOrdinary ? {} : { tags: ["exhaustive"] });

describe("a host", () => {
  for (const [name, row] of Object.entries(ATTACKS_OF_HOSTS))
    test(`${row.attack}: ${row.outcome}`, tagsOf(row), () =>
      comesToNothing(ON_HOSTS[name as HostAttack]),
    );
});

describe("a client", () => {
  for (const [name, row] of Object.entries(ATTACKS_OF_CLIENTS))
    test(`${row.attack}: ${row.outcome}`, tagsOf(row), () =>
      comesToNothing(BY_CLIENTS[name as ClientAttack]),
    );
});
