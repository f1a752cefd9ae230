/** Processes, mounts and loop devices according to the kernel, as far as this user may read. */
import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";
import { bootId } from "@torpor/service";
import { fieldsOf } from "@torpor/service/processes";
import type { Here, SeenProcess } from "./belongs.ts";

const STANDARD_OUTPUTS = [1, 2];
const DEAD = ["Z", "X"];

export function readHere(): Here {
  const pidNamespace = readlinkSync("/proc/self/ns/pid");
  return { bootId: bootId(), pidNamespace, uid: process.geteuid?.() ?? 0 };
}

/** All living processes, except a pid that was reused during the read. */
export function readProcesses(): SeenProcess[] {
  const boot = bootId();
  const pids = readdirSync("/proc").map(Number).filter(Number.isInteger);
  return pids.flatMap((pid) => {
    const fields = fieldsOf(pid);
    if (fields === undefined || DEAD.includes(fields.state)) return [];
    const { parent, hasTerminal, startTime } = fields;
    const seen = {
      pid,
      startTime,
      bootId: boot,
      parent,
      hasTerminal,
      cwd: linkOf(pid, "cwd"),
      args: listOf(pid, "cmdline"),
      env: listOf(pid, "environ"),
      outputs: STANDARD_OUTPUTS.map((number) => linkOf(pid, `fd/${number}`)),
      netNamespace: linkOf(pid, "ns/net"),
    };
    return fieldsOf(pid)?.startTime === startTime ? [seen] : [];
  });
}

/**
 * The namespace of an `ip netns` name, in the format of /proc; undefined if there is no such name.
 */
export function netNamespaceNamed(name: string): string | undefined {
  const found = statSync(`/run/netns/${name}`, { throwIfNoEntry: false });
  return found && `net:[${found.ino}]`;
}

export function readMountinfo(): string {
  return readFileSync("/proc/self/mountinfo", "utf8");
}

/** Loop devices and their backing files. */
export function readLoopDevices(): { device: string; file: string }[] {
  return readdirSync("/sys/block").flatMap((name) => {
    const file = textOf(join("/sys/block", name, "loop/backing_file")).trim();
    return file === "" ? [] : [{ device: `/dev/${name}`, file }];
  });
}

/** Empty if the link is gone, or belongs to another user. */
function linkOf(pid: number, name: string): string {
  try {
    return readlinkSync(`/proc/${pid}/${name}`);
  } catch {
    return "";
  }
}

function listOf(pid: number, name: "cmdline" | "environ"): string[] {
  const parts = textOf(`/proc/${pid}/${name}`).split("\0");
  return parts.filter((part) => part !== "");
}

/** Empty if the file cannot be read. */
function textOf(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}
