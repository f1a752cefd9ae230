/** The reason for the end of a Cloud Hypervisor, from its traces. */
import { describe, expect, test } from "vitest";
import { causeOf, parseEvents, type Traces } from "../../src/drivers/cloud-hypervisor/events.ts";

const event = (source: string, name: string) =>
  `{\n  "timestamp": {\n    "secs": 0,\n    "nanos": 252603\n  },\n  "source": "${source}",\n  "event": "${name}",\n  "properties": null\n}\n\n`;

describe("the event monitor's file", () => {
  test("is read object by object", () => {
    expect(
      parseEvents(event("vmm", "starting") + event("vm", "booted")).map(({ event: name }) => name),
    ).toEqual(["starting", "booted"]);
  });

  test("may be empty, or cut at its beginning and end", () => {
    expect(parseEvents("")).toEqual([]);
    const text = event("vmm", "starting") + event("vm", "booted") + event("vm", "paused");
    expect(parseEvents(text.slice(20, -30)).map(({ event: name }) => name)).toEqual(["booted"]);
  });
});

describe("the cause of an end", () => {
  const clean = parseEvents(
    event("vmm", "starting") + event("vm", "shutdown") + event("vmm", "shutdown"),
  );
  const none: Traces = {
    exit: { code: 0, signal: null },
    events: clean,
    log: "",
    stderr: "",
    serial: "",
  };
  const cases: [string, Partial<Traces>, string][] = [
    [
      "the guest powered off",
      { log: "<vmm> INFO:vmm/src/lib.rs:2135 -- VM guest exit event" },
      "GUEST_POWERED_OFF",
    ],
    [
      "the same, of a VMM that an earlier agent started",
      { exit: undefined, log: "-- VM guest exit event" },
      "GUEST_POWERED_OFF",
    ],
    [
      "the guest's kernel panicked, and it says so by pvpanic",
      { events: [{ source: "guest", event: "panic" }, ...clean] },
      "GUEST_PANICKED",
    ],
    ["the guest was reset", { events: [{ source: "vm", event: "rebooting" }] }, "GUEST_RESTARTED"],
    [
      "it panicked and was reset for that",
      {
        events: [
          { source: "guest", event: "panic" },
          { source: "vm", event: "rebooted" },
        ],
      },
      "GUEST_PANICKED",
    ],
    [
      "it has no driver for pvpanic",
      { serial: "[    1.2] Kernel panic - not syncing: Fatal exception" },
      "GUEST_PANICKED",
    ],
    [
      "SIGKILL",
      { exit: { code: null, signal: "SIGKILL" }, events: clean.slice(0, 1) },
      "VMM_KILLED",
    ],
    [
      "SIGKILL, of a VMM that an earlier agent started",
      { exit: undefined, events: clean.slice(0, 1) },
      "VMM_KILLED",
    ],
    ["SIGTERM", { log: "<vmm> INFO:vmm/src/lib.rs:2080 -- VM exit event" }, "VMM_KILLED"],
    [
      "its system call filter",
      {
        exit: { code: null, signal: "SIGSYS" },
        stderr: "Probable seccomp violation: si_syscall=41",
      },
      "VMM_FAILED",
    ],
    [
      "a thread of it panicked, and it left 0",
      { stderr: "thread 'vcpu0' panicked at src/vm.rs:1:1", log: "-- VM exit event" },
      "VMM_FAILED",
    ],
    [
      "an exit code",
      { exit: { code: 1, signal: null }, stderr: "Error: ApiSocketInUse" },
      "VMM_FAILED",
    ],
    ["an end that it tells nothing of", {}, "VMM_ENDED"],
  ];
  test.each(cases)("%s", (_name, traces, code) => {
    const cause = causeOf({ ...none, ...traces });
    expect(cause.code).toBe(code);
    expect(cause.message).toMatch(/^[A-Z].*\.$/);
  });
});
