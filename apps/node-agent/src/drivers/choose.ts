import type { Config } from "../config.ts";
import type { Driver } from "./driver.ts";
import { QemuDriver } from "./qemu/qemu.ts";

/** VMMs get a user of their own where the agent is root. */
export function vmmUid(config: Config): number | undefined {
  return process.getuid?.() === 0 ? config.VMM_UID : undefined;
}

export function chooseDriver(config: Config): Driver {
  return new QemuDriver({ bin: config.QEMU_BIN, accelerator: "tcg", uid: vmmUid(config) });
}
