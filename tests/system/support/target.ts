/** A live fleet with a victim: what an attack needs, and what the attack must leave unchanged. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type Bus, connectBus } from "@torpor/bus";
import type { HostId } from "@torpor/contracts";
import { tlsFilesOf } from "@torpor/fleet";
import type { CreateSandboxBody, SandboxResource, TestFleet } from "@torpor/testkit";
import type postgres from "postgres";

export const HONEST_HOST = "host-1" as HostId;
/** The attacker has the keys of this host. */
export const HOSTILE_HOST = "host-2" as HostId;

export interface Target {
  fleet: TestFleet;
  sql: postgres.Sql;
  /** Connection with the hostile host's keys. */
  host: Bus;
  /** Connection with the control side's keys. */
  control: Bus;
  /** API key of another organization than the neighbour's. */
  tenantKey: string;
  /** The neighbour's sandbox on the honest host: running, and paused and resumed all the time. */
  sandbox: SandboxResource;
  /** A sandbox that runs on the hostile host. */
  ownOfHost: SandboxResource;
  /** Creates another sandbox of the neighbour's organization on the honest host. */
  create(body?: CreateSandboxBody): Promise<SandboxResource>;
}

/** An attack that is repeated while the neighbour is watched, and the check of its effects. */
export interface Tried {
  during(signal: AbortSignal): Promise<void>;
  /** Throws when the attack had a forbidden effect. */
  check(): Promise<void>;
}

export type Try = (target: Target) => Promise<Tried>;

export async function hostBus({ fleet }: TestFleet): Promise<Bus> {
  const { natsSeedFile, tls } = fleet.joinSecrets(HOSTILE_HOST);
  const access = { url: fleet.state.natsUrl, seed: await readFile(natsSeedFile, "utf8") };
  return await connectBus({ ...access, tlsFiles: tls, name: "attacker", hostId: HOSTILE_HOST });
}

export async function controlBus({ fleet }: TestFleet): Promise<Bus> {
  const seed = await readFile(join(fleet.dir, "secrets/nats-control.seed"), "utf8");
  const tlsFiles = tlsFilesOf(fleet.dir, "scheduler");
  return await connectBus({ url: fleet.state.natsUrl, seed, tlsFiles, name: "operator" });
}

/** Throws with the whole response unless `isSo`. */
export function assertThat(isSo: boolean, what: string, seen: unknown): void {
  if (!isSo) throw new Error(`${what}: ${JSON.stringify(seen)}`);
}

interface Event {
  fact: string;
  to: string | null;
  operation: string | null;
}

/** All events of the sandbox, oldest first. */
export async function eventsOf({ sql }: Target, { id }: SandboxResource): Promise<Event[]> {
  return await sql<Event[]>`
    SELECT fact, to_state AS to, operation_id AS operation FROM sandbox_events
    WHERE sandbox_id = ${id} ORDER BY seq`;
}
