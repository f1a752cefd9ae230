/**
 * Strangers at every entrance of a live fleet, and a neighbour who continues to work. No attack of
 * the table succeeds, no lease is lost, and the neighbour's requests take at most twice as long as
 * without the attack.
 *
 * Times are compared within the same minutes: each window under attack is next to a quiet window,
 * medians of many pairs decide, and attackers keep to a rate. The limit allows for the processor
 * time of the attackers' own processes.
 */
import {
  type CreateSandboxBody,
  type SandboxResource,
  startTestFleet,
  type TestFleet,
} from "@torpor/testkit";
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
  controlBus,
  HONEST_HOST,
  hostBus,
  HOSTILE_HOST,
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
  const { organizations, keys, hosts } = fleet.client;
  await organizations.create("others");
  const { secret: tenantKey } = await keys.create({
    name: "theirs",
    organization: "others",
    scopes: ["read", "lifecycle", "exec"],
  });
  await hosts.cordon(HONEST_HOST);
  const ownOfHost = await createOn(HOSTILE_HOST);
  await hosts.uncordon(HONEST_HOST);
  await hosts.cordon(HOSTILE_HOST);
  const create = (body?: CreateSandboxBody) => createOn(HONEST_HOST, body);
  shared = { fleet, sql, host, control, tenantKey, ownOfHost, create };
});
afterAll(async () => {
  await started.disposeAsync();
});

/** Creates a sandbox on that host; the other host is cordoned. */
async function createOn(hostId: string, body?: CreateSandboxBody): Promise<SandboxResource> {
  const sandbox = await fleet.createSandbox(body);
  expect(sandbox).toMatchObject({ node_id: hostId });
  return sandbox;
}

async function comesToNothing(attempt: Try): Promise<void> {
  const sandbox = await shared.create();
  const { url, apiKey } = fleet;
  await using neighbour = new Neighbour({ url, apiKey, id: sandbox.id });
  // The first window is a warm-up.
  await neighbour.window();
  const target = { ...shared, sandbox };
  const tried = await attempt(target);
  const pairs = await watchDuring(neighbour, (signal) => tried.during(signal), PAIRS);
  await tried.check();
  const { data } = await fleet.client.hosts.events(HONEST_HOST, { limit: 1000 });
  const lost = data.filter(({ fact }) => fact === "lost");
  expect(lost, "no lease is lost").toEqual([]);
  const { get, transition, atMost } = noticedIn(pairs);
  const told = `of ${pairs.length} pairs, ${JSON.stringify(pairs.slice(-3))}`;
  expect(get, `times as long for a GET, ${told}`).toBeLessThanOrEqual(atMost);
  expect(transition, `times as long for a transition, ${told}`).toBeLessThanOrEqual(atMost);
  await fleet.client.sandboxes.delete(sandbox.id);
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
