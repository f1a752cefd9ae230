/**
 * Isolation of a VMM from everything else on its host, as drivers use it; isolation/ implements it.
 */
import { statSync } from "node:fs";
import type { Vm } from "../drivers/driver.ts";

export type VmNetwork =
  /** QEMU's own user-mode network: nothing out, one forwarded port in. */
  | { kind: "user" }
  /**
   * The VM's own namespace, with `tap` up in it; the host reaches the guest agent by TCP at
   * `control`.
   */
  | { kind: "namespace"; name: string; tap: string; control: { host: string; port: number } };

/** Isolation of one run of a VMM. */
export interface Enclosure {
  network: VmNetwork;
  /** User of the VMM; undefined if the agent is not root. */
  uid: number | undefined;
  /**
   * Command line that runs `command` inside. The process becomes `command` by exec: same pid, same
   * start time.
   */
  wrap(command: string, args: string[]): [string, ...string[]];
}

export interface Needs {
  /** Devices that the VMM's user must be able to open. */
  devices: string[];
  /** Memory that the VMM may take besides the guest's, page cache included. */
  overheadMib?: number;
}

export interface Isolation {
  readonly networkKind: VmNetwork["kind"];
  /** User of VMMs; undefined if the agent is not root. */
  readonly uid: number | undefined;
  /**
   * Makes the enclosure of the VM's next run. Can be repeated: what an earlier run left is removed.
   */
  enclose(vm: Vm, needs: Needs): Promise<Enclosure>;
  /**
   * Lets a VM that was enclosed without network access reach what its sandbox may reach. Can be
   * repeated.
   */
  admit(vm: Vm): Promise<void>;
  /** Removes the enclosure once the VMM is gone. Can be repeated. */
  release(vm: Vm): Promise<void>;
  /**
   * Removes what a crash left behind: everything with a name of this agent that no VM in `live`
   * uses.
   */
  collect(live: Vm[]): Promise<void>;
}

/** Isolation only by a separate user, where the agent is root. */
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
 * setpriv becomes the VMM by exec: same pid, same start time. The VMM has the groups that may open
 * the devices.
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

/** Group that may open the device; none if the user may without it. Throws if no group helps. */
function groupFor(device: string, uid: number): number[] {
  const { mode, gid, uid: owner } = statSync(device);
  if ((mode & 0o006) === 0o006 || (owner === uid && (mode & 0o600) === 0o600)) return [];
  if ((mode & 0o060) === 0o060 && gid !== 0) return [gid];
  const permissions = (mode & 0o777).toString(8);
  throw new Error(
    `VMMs (user ${uid}) cannot open ${device} (${permissions}, owner ${owner}, group ${gid}): give it a group other than root, with mode 660 (chgrp kvm ${device}; chmod 660 ${device})`,
  );
}
