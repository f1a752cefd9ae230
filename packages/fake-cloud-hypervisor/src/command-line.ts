/**
 * The options of `cloud-hypervisor` that Torpor may use. Any other option is refused, as the real
 * one refuses a misspelled option.
 */
import { parseArgs } from "node:util";

export interface CommandLine {
  showVersion: boolean;
  apiSocket: string | undefined;
  eventMonitor: string | undefined;
  logFile: string | undefined;
}

export function parseCommandLine(args: string[]): CommandLine {
  const { values } = parseArgs({
    args,
    options: {
      "api-socket": { type: "string" },
      "event-monitor": { type: "string" },
      "log-file": { type: "string" },
      seccomp: { type: "string" },
      v: { type: "boolean", short: "v", multiple: true },
      version: { type: "boolean", short: "V" },
    },
  });
  const seccomp = values.seccomp ?? "true";
  if (!["true", "false", "log", "errno"].includes(seccomp))
    throw new Error(`invalid value '${seccomp}' for '--seccomp <seccomp>'`);
  return {
    showVersion: values.version === true,
    apiSocket: pathOf(values["api-socket"]),
    eventMonitor: pathOf(values["event-monitor"]),
    logFile: values["log-file"],
  };
}

/** `path=<path>` or `<path>`. */
function pathOf(value: string | undefined): string | undefined {
  if (value?.startsWith("fd=") === true)
    throw new Error(`the fake takes no descriptors: give path=<path> instead of ${value}`);
  return value?.replace(/^path=/, "");
}
