import { createLogger, type Logger } from "@torpor/service";

/** TORPOR_TEST_LOG=debug shows what components say. */
export function silentLog(name = "test"): Logger {
  return createLogger({ name, level: process.env["TORPOR_TEST_LOG"] ?? "silent" });
}
