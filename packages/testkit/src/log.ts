import { createLogger, type Logger } from "@torpor/service";

/** TORPOR_TEST_LOG=debug shows the logs of components. */
export function silentLog(name = "test"): Logger {
  return createLogger({ name, level: process.env["TORPOR_TEST_LOG"] ?? "silent" });
}
