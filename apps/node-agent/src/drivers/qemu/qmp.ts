/**
 * QEMU Machine Protocol. Each call has its own connection, so that no state of the agent has to
 * survive a restart of either side.
 */
import { connect } from "node:net";

class QmpError extends Error {
  override readonly name = "QmpError";
}

interface QmpCall {
  execute: string;
  arguments?: Record<string, unknown>;
}

/**
 * Runs commands in order on a fresh connection and returns the last response. Throws QmpError if
 * QEMU refuses, cannot be reached or takes longer than `limitMs`.
 */
export async function qmp<T = Record<string, unknown>>(
  socketPath: string,
  calls: QmpCall[],
  limitMs = 10_000,
): Promise<T> {
  const socket = connect({ path: socketPath });
  const queue: QmpCall[] = [{ execute: "qmp_capabilities" }, ...calls];
  return new Promise<T>((resolve, reject) => {
    const finish = (error: Error | undefined, value?: unknown) => {
      clearTimeout(timer);
      socket.destroy();
      if (error === undefined) resolve(value as T);
      else reject(error);
    };
    const what = calls.map((call) => call.execute).join(", ");
    const timer = setTimeout(
      () => finish(new QmpError(`QEMU did not answer ${what} within ${limitMs} ms`)),
      limitMs,
    );
    const next = () => socket.write(`${JSON.stringify(queue[0])}\n`);
    socket.once("error", (cause) =>
      finish(new QmpError(`QEMU cannot be reached for ${what}: ${cause.message}`, { cause })),
    );
    socket.once("close", () => finish(new QmpError(`QEMU closed the connection during ${what}`)));
    const receive = (line: string) => {
      const message = JSON.parse(line) as {
        QMP?: unknown;
        return?: unknown;
        error?: { desc: string };
        event?: string;
      };
      if (message.QMP !== undefined) next();
      else if (message.error !== undefined)
        finish(new QmpError(`QEMU refused ${queue[0]?.execute}: ${message.error.desc}`));
      else if (message.return !== undefined) {
        queue.shift();
        if (queue.length === 0) finish(undefined, message.return);
        else next();
      }
    };
    let rest = "";
    socket.setEncoding("utf8").on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines.filter((entry) => entry.trim() !== "")) receive(line);
    });
  });
}
