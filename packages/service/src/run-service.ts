import closeWithGrace from "close-with-grace";
import type { Logger } from "pino";

export interface Closer {
  what: string;
  close(): Promise<unknown>;
}

/**
 * Runs a process: `start` opens resources and registers how each is closed. On SIGTERM, SIGINT or
 * an uncaught error, the signal aborts and the resources are closed in reverse order, within
 * `graceMs`. If `start` fails, the opened resources are closed, and the process exits with 1 and
 * one line with the reason.
 */
export async function runService(
  log: Logger,
  options: { graceMs: number },
  start: (signal: AbortSignal, onClose: (closer: Closer) => void) => Promise<void>,
): Promise<void> {
  const stopping = new AbortController();
  const closers: Closer[] = [];
  const closeAll = async () => {
    stopping.abort();
    for (const closer of closers.toReversed()) {
      await closer
        .close()
        .catch((err: unknown) => log.warn({ err, what: closer.what }, "closing failed"));
    }
  };
  closeWithGrace({ delay: options.graceMs, logger: false }, async ({ err, signal }) => {
    if (err !== undefined) log.fatal({ err }, "stopping after an uncaught error");
    else log.info({ signal }, "stopping");
    await closeAll();
  });
  try {
    await start(stopping.signal, (closer) => closers.push(closer));
  } catch (err) {
    log.fatal({ err }, "the start failed");
    await closeAll();
    process.exit(1);
  }
}
