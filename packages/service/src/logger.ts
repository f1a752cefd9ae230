import { destination, pino, type Logger } from "pino";
import { Type } from "typebox";

export type { Logger } from "pino";

/** Values of LOG_LEVEL. */
export const LogLevel = Type.Enum(["trace", "debug", "info", "warn", "error", "fatal", "silent"], {
  default: "info",
});

/** One JSON line per event on standard output; secrets are redacted by path. */
export function createLogger(options: { name: string; level: string }): Logger {
  return pino(
    {
      name: options.name,
      level: options.level,
      redact: [
        "*.token",
        "*.agentKey",
        "*.password",
        "req.headers.authorization",
        'req.headers["x-api-key"]',
      ],
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
    },
    destination({ fd: 1, sync: true }),
  );
}
