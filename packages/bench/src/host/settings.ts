/** Settings of the bench hosts' program, passed in a file. */
import type { Fleet } from "@torpor/fleet";

export interface BenchHostsSettings {
  natsUrl: string;
  healthPort: number;
  template: { name: string; imageSha256: string };
  hosts: ({ hostId: string } & ReturnType<Fleet["joinSecrets"]>)[];
  /** Number of paused sandboxes in the filled database, distributed over these hosts in turn. */
  filled: number;
}

export const benchHostId = (at: number) => `bench-${at + 1}`;
