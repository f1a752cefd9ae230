/**
 * QEMU Machine Protocol. Each call has its own connection, so that no state of the agent has to
 * survive a restart of either side.
 */
import { connect } from "node:net";
import { jsonParser } from "@torpor/contracts";
import { type Static, Type } from "typebox";

class QmpError extends Error {
  override readonly name = "QmpError";
}

interface QmpCall {
  execute: string;
  arguments?: Record<string, unknown>;
}

/** Fields of the responses to the queries that the driver makes. */
const Answer = Type.Object({
  running: Type.Optional(Type.Boolean()),
  status: Type.Optional(Type.String()),
  "error-desc": Type.Optional(Type.String()),
});
export type QmpAnswer = Static<typeof Answer>;

const Message = Type.Object({
  QMP: Type.Optional(Type.Unknown()),
  return: Type.Optional(Answer),
  error: Type.Optional(Type.Object({ desc: Type.String() })),
});
const parse = jsonParser(Message);
/** A guest that broke out into its QEMU could send a line without an end. */
const MAX_LINE_LENGTH = 1024 ** 2;

/**
 * Runs commands in order on a fresh connection and returns the last response. Throws QmpError if
 * QEMU refuses, cannot be reached or takes longer than `limitMs`.
 */
export async function qmp(
  socketPath: string,
  calls: QmpCall[],
  limitMs = 10_000,
): Promise<QmpAnswer> {
  const socket = connect({ path: socketPath });
  const queue: QmpCall[] = [{ execute: "qmp_capabilities" }, ...calls];
  return new Promise((resolve, reject) => {
    const finish = (outcome: QmpError | QmpAnswer) => {
      clearTimeout(timer);
      socket.destroy();
      if (outcome instanceof QmpError) reject(outcome);
      else resolve(outcome);
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
      const parsed = parse(line);
      if (parsed.kind === "invalid")
        return finish(new QmpError(`QEMU answered ${what} with: ${parsed.problems.join("; ")}`));
      const message = parsed.value;
      if (message.QMP !== undefined) next();
      else if (message.error !== undefined)
        finish(new QmpError(`QEMU refused ${queue[0]?.execute}: ${message.error.desc}`));
      else if (message.return !== undefined) {
        queue.shift();
        if (queue.length === 0) finish(message.return);
        else next();
      }
    };
    let rest = "";
    socket.setEncoding("utf8").on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      if (rest.length > MAX_LINE_LENGTH)
        return finish(new QmpError(`QEMU answered ${what} without an end`));
      for (const line of lines.filter((entry) => entry.trim() !== "")) receive(line);
    });
  });
}
