/** What stands between a VMM and everything else on its host. Drivers ask for it; how it is built is this directory's matter. */
import { statSync } from "node:fs";
import type { Vm } from "../drivers/driver.ts";

export type VmNetwork =
  /** QEMU's own user-mode network: nothing out, one forwarded port in. */
  | { kind: "user" }
  /** A namespace of the VM's own with `tap` up in it; the guest's agent answers TCP at `control` on the host's side. */
  | { kind: "namespace"; name: string; tap: string; control: { host: string; port: number } };

/** Of one run of a VMM. */
export interface Enclosure {
  network: VmNetwork;
  /** The user that the VMM becomes; undefined when the agent itself is not root. */
  uid: number | undefined;
  /** The whole command line that runs `command` inside. The process becomes it by exec: same pid, same start time. */
  wrap(command: string, args: string[]): [string, ...string[]];
}

export interface Isolation {
  readonly networkKind: VmNetwork["kind"];
  /** User of VMMs; undefined when the agent itself is not root. */
  readonly uid: number | undefined;
  /** For the next run of the VM. Can be repeated: what an earlier run left is taken down first. `devices` are those that the VMM's user must be able to open. */
  enclose(vm: Vm, needs: { devices: string[] }): Promise<Enclosure>;
  /** Once its VMM is gone. Can be repeated. */
  release(vm: Vm): Promise<void>;
  /** Removes what a crash left behind: everything of this agent's naming scheme that none of `live` uses. */
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
    release: async () => {},
    collect: async () => {},
  };
}

/** setpriv becomes the VMM by exec: same pid, same start time. The groups are those of the devices. */
function unprivileged(uid: number | undefined, devices: string[], command: string, args: string[]): [string, ...string[]] {
  if (uid === undefined) return [command, ...args];
  const groups = devices.map((device) => statSync(device).gid);
  const groupOption = groups.length === 0 ? "--clear-groups" : `--groups=${groups.join(",")}`;
  const drop = [`--reuid=${uid}`, `--regid=${uid}`, groupOption, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"];
  return ["setpriv", ...drop, command, ...args];
}
