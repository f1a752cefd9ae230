/**
 * Tickets for a host's data plane. Each host makes a key of its own and tells the control plane at
 * registration; gateways and schedulers derive from it what is shown to that host, for one run of
 * one sandbox or for one snapshot. Whoever sees a ticket, at a wrong address say, has what it is
 * for, and nothing of any other sandbox or host. The names end with no time: a run and a snapshot
 * end by themselves, and clocks of hosts do not matter.
 */
import { createHmac, timingSafeEqual } from "node:crypto";
import { Type } from "typebox";

/** 32 random bytes, as hex. */
export const TicketKey = Type.String({ pattern: "^[0-9a-f]{64}$" });

export interface RunNamed {
  sandboxId: string;
  epoch: number;
}

export interface SnapshotNamed {
  sandboxId: string;
  generation: number;
  manifestSha256: string;
}

/** For requests to a run of a sandbox. */
export function runTicket(ticketKey: string, { sandboxId, epoch }: RunNamed): string {
  return signed(ticketKey, `run/${sandboxId}/${epoch}`);
}

/** For another host that is to bring the snapshot to itself. */
export function snapshotTicket(ticketKey: string, snapshot: SnapshotNamed): string {
  const { sandboxId, generation, manifestSha256 } = snapshot;
  return signed(ticketKey, `snapshot/${sandboxId}/${generation}/${manifestSha256}`);
}

/** Takes the same time wherever they differ. */
export function isSameSecret(given: string, expected: string): boolean {
  const [one, other] = [Buffer.from(given), Buffer.from(expected)];
  return one.length === other.length && timingSafeEqual(one, other);
}

function signed(ticketKey: string, what: string): string {
  return createHmac("sha256", Buffer.from(ticketKey, "hex")).update(what).digest("hex");
}
