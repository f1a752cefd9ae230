/**
 * What stands between a VMM and everything else on its host. Drivers ask for it; how it is built is
 * this directory's matter.
 */
import { statSync } from "node:fs";
import type { Vm } from "../drivers/driver.ts";

export type VmNetwork =
  /** QEMU's own user-mode network: nothing out, one forwarded port in. */
  | { kind: "user" }
  /**
   * A namespace of the VM's own with `tap` up in it; the guest's agent answers TCP at `control` on
   * the host's side.
   */
  | { kind: "namespace"; name: string; tap: string; control: { host: string; port: number } };

/** Of one run of a VMM. */
export interface Enclosure {
  network: VmNetwork;
  /** The user that the VMM becomes; undefined when the agent itself is not root. */
  uid: number | undefined;
  /**
   * The whole command line that runs `command` inside. The process becomes it by exec: same pid,
   * same start time.
   */
  wrap(command: string, args: string[]): [string, ...string[]];
}

export interface Needs {
  /** That the VMM's user must be able to open. */
  devices: string[];
  /** What the VMM may take beside the guest's memory, page cache included. */
  overheadMib?: number;
}

export interface Isolation {
  readonly networkKind: VmNetwork["kind"];
  /** User of VMMs; undefined when the agent itself is not root. */
  readonly uid: number | undefined;
  /** For the next run of the VM. Can be repeated: what an earlier run left is taken down first. */
  enclose(vm: Vm, needs: Needs): Promise<Enclosure>;
  /**
   * For a run that was enclosed for nobody, whose VM may reach nothing: what the VM's sandbox may
   * reach. Can be repeated.
   */
  admit(vm: Vm): Promise<void>;
  /** Once its VMM is gone. Can be repeated. */
  release(vm: Vm): Promise<void>;
  /**
   * Removes what a crash left behind: everything of this agent's naming scheme that none of `live`
   * uses.
   */
  collect(live: Vm[]): Promise<void>;
}

/** A user of its own, where the agent is root, and nothing else. */
export function plainIsolation(uid: number | undefined): Isolation {
  return {
    networkKind: "user",
    uid,
    enclose: async (_vm, { devices }) => ({
      network: { kind: "user" },
      uid,
      wrap: (command, args) => unprivileged(uid, devices, command, args),
    }),
    admit: async () => {},
    release: async () => {},
    collect: async () => {},
  };
}

/**
 * setpriv becomes the VMM by exec: same pid, same start time. Its groups are those that open the
 * devices.
 */
export function unprivileged(
  uid: number | undefined,
  devices: string[],
  command: string,
  args: string[],
): [string, ...string[]] {
  if (uid === undefined) return [command, ...args];
  const groups = [...new Set(devices.flatMap((device) => groupFor(device, uid)))];
  const groupOption = groups.length === 0 ? "--clear-groups" : `--groups=${groups.join(",")}`;
  const drop = [
    `--reuid=${uid}`,
    `--regid=${uid}`,
    groupOption,
    "--no-new-privs",
    "--inh-caps=-all",
    "--bounding-set=-all",
    "--",
  ];
  return ["setpriv", ...drop, command, ...args];
}

/** The group that may read and write the device; none when everybody, or the user itself, may. */
function groupFor(device: string, uid: number): number[] {
  const { mode, gid, uid: owner } = statSync(device);
  if ((mode & 0o006) === 0o006 || (owner === uid && (mode & 0o600) === 0o600)) return [];
  if ((mode & 0o060) === 0o060 && gid !== 0) return [gid];
  const permissions = (mode & 0o777).toString(8);
  throw new Error(
    `VMMs (user ${uid}) cannot open ${device} (${permissions}, owner ${owner}, group ${gid}): give it a group other than root, with mode 660 (chgrp kvm ${device}; chmod 660 ${device})`,
  );
}
