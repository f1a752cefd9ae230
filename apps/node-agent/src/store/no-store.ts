/** The store of a host without one: sandboxes at rest are only on its disk. */
import type { SnapshotStore } from "./snapshot-store.ts";

/** Trying again cannot succeed. */
export class NoSnapshotStore extends Error {
  readonly code = "NO_SNAPSHOT_STORE";

  constructor() {
    super(
      "This host has no snapshot store: set SNAPSHOT_STORE on it to a directory that all hosts share, or to a bucket.",
    );
  }
}

const refuse = async (): Promise<never> => {
  throw new NoSnapshotStore();
};

export const NO_SNAPSHOT_STORE: SnapshotStore = {
  name: "no snapshot store",
  put: refuse,
  source: () => ({ name: "the snapshot store", index: refuse, chunk: refuse }),
  remove: async () => {},
};
