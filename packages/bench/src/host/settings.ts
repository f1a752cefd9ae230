/** Settings of the bench hosts' program, passed in a file. */
import { type HostId, unverifiedHostId } from "@torpor/contracts";
import type { Fleet } from "@torpor/fleet";

export interface BenchHostsSettings {
  natsUrl: string;
  healthPort: number;
  template: { name: string; imageSha256: string };
  hosts: ({ hostId: HostId } & ReturnType<Fleet["joinSecrets"]>)[];
  /** Number of paused sandboxes in the filled database, distributed over these hosts in turn. */
  filled: number;
}

export const benchHostId = (at: number) => unverifiedHostId(`bench-${at + 1}`);
