/** Result of one check of what a host needs. */
export type Finding =
  | { kind: "ok"; found: string }
  /** A host works without it, but not as well. */
  | { kind: "advised"; found: string; remedy: string }
  | { kind: "missing"; found: string; remedy: string };

export interface Check {
  name: string;
  look: (machine: CheckedMachine) => Promise<Finding>;
}

/** The machine as checks see it: a test gives another root, other programs and other settings. */
export interface CheckedMachine {
  /** Prefix of every absolute path that is read: "" on a real machine. */
  root: string;
  env: NodeJS.ProcessEnv;
  settings: CheckSettings;
  /** Code 127 when there is no such program. */
  run(command: string, args: string[]): Promise<{ code: number; output: string }>;
}

export interface CheckSettings {
  driver: string;
  vmmUid: number;
  dataDir: string;
  imagesDir: string;
  snapshotStore: string;
  snapshotStoreDir: string | undefined;
  natsUrl: string | undefined;
  cloudHypervisorBin: string | undefined;
  cloudHypervisorDir: string;
  secretFiles: string[];
}

export const ok = (found: string): Finding => ({ kind: "ok", found });
export const missing = (found: string, remedy: string): Finding => ({
  kind: "missing",
  found,
  remedy,
});
export const advised = (found: string, remedy: string): Finding => ({
  kind: "advised",
  found,
  remedy,
});

/** Finding that is missing for the production driver only, else advised. */
export const missingForKvm = (machine: CheckedMachine, found: string, remedy: string): Finding =>
  machine.settings.driver === "cloud-hypervisor" ? missing(found, remedy) : advised(found, remedy);
