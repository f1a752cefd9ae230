/**
 * Events that a VMM reported, from the event monitor's file (JSON objects, each followed by an
 * empty line), and the reason why the VMM ended, from the events and its other traces.
 */
import { jsonParser } from "@torpor/contracts";
import { type Static, Type } from "typebox";
import type { CauseOfEnd } from "../driver.ts";
import type { ExitFacts } from "../vmm-process.ts";

const VmmEvent = Type.Object({ source: Type.String(), event: Type.String() });
export type VmmEvent = Static<typeof VmmEvent>;
const parse = jsonParser(VmmEvent);

export interface Traces {
  /** Undefined if the VMM was not a child of this process. */
  exit: ExitFacts | undefined;
  events: VmmEvent[];
  log: string;
  stderr: string;
  serial: string;
}

/**
 * Parses the events. The first and the last object may be incomplete, because of the reader's limit
 * or the VMM's end, and are then left out.
 */
export function parseEvents(text: string): VmmEvent[] {
  return text.split("\n\n").flatMap((one) => {
    const parsed = parse(one);
    if (parsed.kind === "invalid") return [];
    const { source, event } = parsed.value;
    return [{ source, event }];
  });
}

const panicked = ({ source, event }: VmmEvent) => source === "guest" && event === "panic";
/** Any reset restarts the guest in the same process (vmm/src/vm.rs, vm_reboot). */
const restarted = ({ source, event }: VmmEvent) =>
  source === "vm" && (event === "rebooting" || event === "rebooted");

/** True if the guest's memory is lost, even though the VMM is alive and reports a running VM. */
export function hasLostGuest(events: VmmEvent[]): boolean {
  return events.some((event) => panicked(event) || restarted(event));
}

/**
 * Reason for the end, from the most reliable trace to the least. An exit code of 0 proves nothing:
 * a thread that panicked leaves it too. The serial line, which the guest can write itself, is used
 * only for what the guest did.
 */
export function causeOf({ exit, events, log, stderr, serial }: Traces): CauseOfEnd {
  if (exit?.signal === "SIGSYS" || stderr.includes("Probable seccomp violation"))
    return {
      code: "VMM_FAILED",
      message: `Cloud Hypervisor made a system call that its filter forbids: ${lastLine(stderr)}.`,
    };
  if (events.some(panicked) || serial.includes("Kernel panic - not syncing"))
    return { code: "GUEST_PANICKED", message: "The guest's kernel panicked." };
  if (events.some(restarted))
    return {
      code: "GUEST_RESTARTED",
      message: "The guest restarted, and its memory is lost with that.",
    };
  if (log.includes("VM guest exit event"))
    return { code: "GUEST_POWERED_OFF", message: "The guest powered off." };
  if (/thread .* panicked at/.test(stderr))
    return { code: "VMM_FAILED", message: `Cloud Hypervisor failed: ${lastLine(stderr)}.` };
  if (exit?.signal === "SIGKILL")
    return {
      code: "VMM_KILLED",
      message:
        "Cloud Hypervisor was killed (SIGKILL): by hand, or because the host's memory ran out.",
    };
  if (exit?.signal)
    return {
      code: "VMM_FAILED",
      message: `Cloud Hypervisor ended with ${exit.signal}: ${lastLine(stderr)}.`,
    };
  if (exit?.code)
    return {
      code: "VMM_FAILED",
      message: `Cloud Hypervisor ended with code ${exit.code}: ${lastLine(stderr)}.`,
    };
  if (log.includes("VM exit event"))
    return {
      code: "VMM_KILLED",
      message: "Cloud Hypervisor was told to end (SIGTERM), or ended on an error of its own.",
    };
  const wasOrderly = events.some(({ source, event }) => source === "vmm" && event === "shutdown");
  if (!wasOrderly && stderr.trim() !== "")
    return { code: "VMM_FAILED", message: `Cloud Hypervisor failed: ${lastLine(stderr)}.` };
  if (!wasOrderly)
    return { code: "VMM_KILLED", message: "Cloud Hypervisor ended without a word: it was killed." };
  return { code: "VMM_ENDED", message: "Cloud Hypervisor ended, and does not say why." };
}

function lastLine(text: string): string {
  return text.trim().split("\n").at(-1)?.slice(-300) || "it said nothing";
}
