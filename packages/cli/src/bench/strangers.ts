/**
 * The effect of an attacker on others: the latencies of one tenant without and with an attack, in
 * the same run. Attacks are paced so that they leave processor time: on one machine, an attacker
 * that burns all of it affects every tenant.
 */
import { readFile } from "node:fs/promises";
import { connect as connectTcp, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { benchDir, type BenchFleet, median, startBenchFleet } from "@torpor/bench";
import { connectBus, inboxPrefixOf } from "@torpor/bus";
import { type HostId, subjects, unverifiedHostId } from "@torpor/contracts";

export interface StrangersOptions {
  root: string;
  imagesDir: string;
  seconds: number;
  signal: AbortSignal;
  say: (line: string) => void;
}

/** Medians in milliseconds. */
interface Latencies {
  getMs: number;
  transitionMs: number;
}

export interface AttackMeasure {
  attack: string;
  quiet: Latencies;
  attacked: Latencies;
  /** Leases that hosts lost during the attack. */
  leasesLost: number;
}

type Attack = (target: Target, signal: AbortSignal) => Promise<void>;

interface Target {
  fleet: BenchFleet["fleet"];
  /** API key of another tenant. */
  otherKey: string;
}

const GET_EVERY_MS = 20;
const TRANSITION_EVERY = 25;
const REQUEST_LIMIT_MS = 60_000;
const HOSTILE_HOST = unverifiedHostId("host-2");

const ATTACKS: Record<string, Attack> = {
  "600 connections that say nothing": idleConnections,
  "100 wrong keys a second": wrongKeys,
  "another tenant's 100 lists a second": lists,
  "a host's 500 questions a second": async (target, signal) =>
    await fromHost(target, signal, (hostId) => subjects.request(hostId, "lease")),
  "a host's 500 reports a second": async (target, signal) =>
    await fromHost(target, signal, (hostId) => subjects.observation(hostId, "running")),
};

export async function measureStrangers(options: StrangersOptions): Promise<AttackMeasure[]> {
  const { root, imagesDir, seconds, signal, say } = options;
  const given = { imagesDir, hosts: 2, driver: "simulated" } as const;
  const place = { root, dir: benchDir(root, "strangers") };
  const started = await startBenchFleet(place, given, signal);
  try {
    const target = { fleet: started.fleet, otherKey: await otherTenant(started.fleet) };
    const victim = await Victim.in(started.fleet);
    const measures: AttackMeasure[] = [];
    for (const [attack, run] of Object.entries(ATTACKS)) {
      say(attack);
      const before = await victim.measure(seconds);
      const lost = await leasesLost(started.fleet);
      const stop = new AbortController();
      const running = run(target, stop.signal);
      const attacked = await victim.measure(seconds);
      stop.abort();
      await running;
      const leases = (await leasesLost(started.fleet)) - lost;
      const after = await victim.measure(seconds);
      measures.push({ attack, quiet: between(before, after), attacked, leasesLost: leases });
    }
    return measures;
  } finally {
    await started.close();
  }
}

const between = (one: Latencies, other: Latencies): Latencies => ({
  getMs: (one.getMs + other.getMs) / 2,
  transitionMs: (one.transitionMs + other.transitionMs) / 2,
});

class Victim {
  private readonly call: BenchCall;
  private readonly path: string;
  private state: "running" | "paused" = "running";

  private constructor(call: BenchCall, id: string) {
    this.call = call;
    this.path = `/v1/sandboxes/${id}`;
  }

  static async in(fleet: Target["fleet"]): Promise<Victim> {
    const call = callerOf(fleet, fleet.state.apiKey);
    const { id } = await call("POST", "/v1/sandboxes", { template_name: "code-interpreter" });
    return new Victim(call, String(id));
  }

  async measure(seconds: number): Promise<Latencies> {
    const [gets, transitions]: [number[], number[]] = [[], []];
    const endsAt = performance.now() + seconds * 1_000;
    for (let at = 0; performance.now() < endsAt; at += 1) {
      gets.push(await timed(() => this.call("GET", this.path)));
      if (at % TRANSITION_EVERY === 0) transitions.push(await timed(() => this.move()));
      await sleep(GET_EVERY_MS);
    }
    return { getMs: median(gets), transitionMs: median(transitions) };
  }

  private async move(): Promise<void> {
    const verb = this.state === "running" ? "pause" : "resume";
    await this.call("POST", `${this.path}/${verb}`, {});
    this.state = verb === "pause" ? "paused" : "running";
  }
}

type BenchCall = (method: string, path: string, body?: object) => Promise<Record<string, unknown>>;

/** Throws the API's error message for any status but a 2xx. */
function callerOf({ state }: Target["fleet"], apiKey: string): BenchCall {
  return async (method, path, body) => {
    const response = await fetch(new URL(path, state.url), {
      method,
      headers: {
        "x-api-key": apiKey,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(REQUEST_LIMIT_MS),
    });
    const answer = (await response.json()) as Record<string, unknown>;
    if (!response.ok) throw new Error(`${method} ${path}: ${String(answer["message"])}`);
    return answer;
  };
}

async function otherTenant(fleet: Target["fleet"]): Promise<string> {
  const call = callerOf(fleet, fleet.state.apiKey);
  await call("POST", "/v1/organizations", { name: "other" });
  const scopes = ["read", "lifecycle", "exec"];
  const key = { name: "other", organization: "other", scopes };
  return String((await call("POST", "/v1/keys", key))["secret"]);
}

async function leasesLost(fleet: Target["fleet"]): Promise<number> {
  const call = callerOf(fleet, fleet.state.apiKey);
  let lost = 0;
  for (const hostId of ["host-1", HOSTILE_HOST]) {
    const { data } = await call("GET", `/v1/hosts/${hostId}/events?limit=1000`);
    lost += (data as { fact: string }[]).filter(({ fact }) => fact === "lost").length;
  }
  return lost;
}

async function idleConnections({ fleet }: Target, signal: AbortSignal): Promise<void> {
  const { hostname, port } = new URL(fleet.state.url);
  const sockets = Array.from({ length: 600 }, () => {
    const socket: Socket = connectTcp(Number(port), hostname);
    socket.on("error", () => socket.destroy());
    return socket;
  });
  await untilAborted(signal);
  for (const socket of sockets) socket.destroy();
}

async function wrongKeys({ fleet }: Target, signal: AbortSignal): Promise<void> {
  await often(signal, 100, async (at) => {
    await callerOf(fleet, `torpor_live_${at}`)("GET", "/v1/sandboxes").catch(() => {});
  });
}

async function lists({ fleet, otherKey }: Target, signal: AbortSignal): Promise<void> {
  const call = callerOf(fleet, otherKey);
  await often(signal, 100, async () => void (await call("GET", "/v1/sandboxes").catch(() => {})));
}

/** Uses the keys of a host that was taken over. No receiver can decode its messages. */
async function fromHost(
  { fleet }: Target,
  signal: AbortSignal,
  subjectOf: (hostId: HostId) => string,
): Promise<void> {
  const { natsSeedFile, tls } = fleet.joinSecrets(HOSTILE_HOST);
  const seed = await readFile(natsSeedFile, "utf8");
  const access = { url: fleet.state.natsUrl, seed, tlsFiles: tls };
  const bus = await connectBus({ ...access, name: "attacker", hostId: HOSTILE_HOST });
  const reply = `${inboxPrefixOf(HOSTILE_HOST)}.answer`;
  try {
    await often(signal, 500, async (at) => {
      const body = JSON.stringify({ type: "lease", version: 1, hostId: HOSTILE_HOST, at });
      bus.connection.publish(subjectOf(HOSTILE_HOST), body, { reply });
    });
  } finally {
    await bus.close();
  }
}

/** Begins `act` this often per second until the signal aborts. */
async function often(
  signal: AbortSignal,
  perSecond: number,
  act: (at: number) => Promise<void>,
): Promise<void> {
  const startedAt = performance.now();
  const under = new Set<Promise<void>>();
  for (let at = 0; !signal.aborted;) {
    const due = ((performance.now() - startedAt) / 1_000) * perSecond;
    for (; at < due; at += 1) {
      const acting = act(at).finally(() => under.delete(acting));
      under.add(acting);
    }
    await sleep(10);
  }
  await Promise.allSettled(under);
}

async function untilAborted(signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) =>
    signal.addEventListener("abort", () => resolve(), { once: true }),
  );
}

async function timed(run: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await run();
  return performance.now() - startedAt;
}
