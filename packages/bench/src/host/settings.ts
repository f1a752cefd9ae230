/** What the program of the bench hosts is told, in a file. */
import type { Fleet } from "@torpor/fleet";

export interface BenchHostsSettings {
  natsUrl: string;
  healthPort: number;
  template: { name: string; imageSha256: string };
  hosts: ({ hostId: string } & ReturnType<Fleet["joinSecrets"]>)[];
  /** Paused sandboxes that the database was filled with, on these hosts in turn. */
  filled: number;
}

export const benchHostId = (at: number) => `bench-${at + 1}`;
