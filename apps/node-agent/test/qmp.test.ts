/** The QMP client against a monitor of this test: a QEMU that its guest has taken over. */
import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import { tempDir } from "@torpor/testkit";
import { expect, test } from "vitest";
import { qmp } from "../src/drivers/qemu/qmp.ts";

const GREETING = '{"QMP":{"version":{}}}\n';
const STATUS = [{ execute: "query-status" }];

/** Runs a query against a monitor that answers each request with `answer`. */
async function against(answer: (socket: Socket) => void, greeting = GREETING) {
  await using dir = await tempDir();
  const path = join(dir.path, "qmp.sock");
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.write(greeting);
    socket.on("data", (text) =>
      String(text).includes("qmp_capabilities") ? socket.write('{"return":{}}\n') : answer(socket),
    );
  });
  await once(server.listen(path), "listening");
  try {
    return await qmp(path, STATUS, 5_000);
  } finally {
    server.close();
  }
}

test("the answer to the last command, whatever events come between", async () => {
  const status = (socket: Socket) =>
    socket.write('{"event":"STOP"}\n{"return":{"running":false,"status":"paused"}}\n');
  expect(await against(status)).toMatchObject({ running: false, status: "paused" });
});

test.each<[string, string, RegExp]>([
  ["no JSON", "nonsense\n", /with: not JSON/],
  ["another type", '{"return":{"running":"yes"}}\n', /\/return\/running/],
  ["no object", "[]\n", /with: /],
  ["a refusal", '{"error":{"class":"x","desc":"no such thing"}}\n', /no such thing/],
  ["a line without an end", "x".repeat(2 * 1024 ** 2), /without an end/],
])("%s is an error of that call alone", async (_name, text, message) => {
  await expect(against((socket) => void socket.write(text))).rejects.toThrow(message);
});

test("a greeting that is none is an error, too", async () => {
  await expect(against(() => {}, "220 mail ready\n")).rejects.toThrow("not JSON");
});
