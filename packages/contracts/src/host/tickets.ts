/**
 * Tickets for a host's data plane. Each host makes its own key and sends it to the control plane at
 * registration. Gateways and schedulers derive tickets from the key, each for one run of a sandbox
 * or for one snapshot. A leaked ticket gives access to that run or snapshot, and to no other
 * sandbox or host. Tickets do not expire: a run and a snapshot end by themselves, and the clocks of
 * hosts do not matter.
 */
import { createHmac, timingSafeEqual } from "node:crypto";
import { Type } from "typebox";
import type { SandboxId } from "../ids.ts";

/** 32 random bytes, as hex. */
export const TicketKey = Type.String({ pattern: "^[0-9a-f]{64}$" });

export interface RunNamed {
  sandboxId: SandboxId;
  epoch: number;
}

export interface SnapshotNamed {
  sandboxId: SandboxId;
  generation: number;
  manifestSha256: string;
}

/** Ticket for requests to a run of a sandbox. */
export function runTicket(ticketKey: string, { sandboxId, epoch }: RunNamed): string {
  return signed(ticketKey, `run/${sandboxId}/${epoch}`);
}

/** Ticket for another host, which fetches the snapshot. */
export function snapshotTicket(ticketKey: string, snapshot: SnapshotNamed): string {
  const { sandboxId, generation, manifestSha256 } = snapshot;
  return signed(ticketKey, `snapshot/${sandboxId}/${generation}/${manifestSha256}`);
}

/** Takes the same time wherever the secrets differ. */
export function isSameSecret(given: string, expected: string): boolean {
  const [one, other] = [Buffer.from(given), Buffer.from(expected)];
  return one.length === other.length && timingSafeEqual(one, other);
}

function signed(ticketKey: string, what: string): string {
  return createHmac("sha256", Buffer.from(ticketKey, "hex")).update(what).digest("hex");
}
