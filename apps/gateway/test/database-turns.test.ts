/** Slots at the database: each lane waits only for itself. The database is scripted. */
import { expect, test } from "vitest";
import { createDatabaseTurns, createHealthPing, inLane, inOwnLane } from "../src/database-turns.ts";
import { createGuesses } from "../src/auth/guesses.ts";

function gate(): [() => void, Promise<void>] {
  const { promise, resolve } = Promise.withResolvers<void>();
  return [resolve, promise];
}

/** One more connection is the health report's. */
const turnsAt = (connections: number, waitLimitMs?: number) =>
  createDatabaseTurns(connections + 1, waitLimitMs);

/** Work that `endOne` ends, in the order in which it began. */
function scripted(connections: number, waitLimitMs?: number) {
  const takeTurn = turnsAt(connections, waitLimitMs);
  const begun: string[] = [];
  const ends: (() => void)[] = [];
  const ask = (lane: string, name: string) => {
    const asked = inLane(lane, () =>
      takeTurn(async () => {
        begun.push(name);
        await new Promise<void>((resolve) => ends.push(resolve));
        return name;
      }),
    );
    // Work that is left at the end of a test is rejected later, when it has waited too long.
    asked.catch(() => {});
    return asked;
  };
  /** Ends the work that began first. */
  const endOne = async () => {
    ends.shift()?.();
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { begun, ask, endOne, takeTurn };
}

const flood = (ask: (lane: string, name: string) => Promise<string>, count: number) =>
  Array.from({ length: count }, (_, at) => ask("api-key 1", `flood ${at}`));

test("DT2: a flood leaves a quarter of the connections to others", async () => {
  const { begun, ask } = scripted(20);
  void flood(ask, 100);
  expect(begun).toHaveLength(15);
  void ask("api-key 2", "other");
  expect(begun).toHaveLength(16);
  expect(begun.at(-1)).toBe("other");
});

test("DT1: where all are taken, the next turn is the other's, however much waits before it", async () => {
  const { begun, ask, endOne } = scripted(1);
  void flood(ask, 100);
  const other = ask("api-key 2", "other");
  await endOne();
  expect(begun).toEqual(["flood 0", "other"]);
  await endOne();
  expect(await other).toBe("other");
  await endOne();
  expect(begun).toEqual(["flood 0", "other", "flood 1", "flood 2"]);
});

test("what fails is passed on, and the next one's turn comes", async () => {
  const takeTurn = turnsAt(1);
  const failing = takeTurn(() => Promise.reject(new Error("no such table")));
  const next = takeTurn(async () => "next");
  await expect(failing).rejects.toThrow("no such table");
  expect(await next).toBe("next");
});

test("DT3: whoever has waited too long is told that the database is not there, and asks nothing", async () => {
  const { begun, ask, endOne } = scripted(1, 20);
  void ask("api-key 1", "first");
  await expect(ask("api-key 1", "late")).rejects.toMatchObject({ code: "ETIMEDOUT" });
  await endOne();
  void ask("api-key 1", "next");
  expect(begun).toEqual(["first", "next"]);
});

test("DT3: a lane that is full is a 429, and others' are not", async () => {
  const { ask, begun } = scripted(2);
  const all = flood(ask, 5_001);
  await expect(ask("api-key 1", "one more")).rejects.toMatchObject({ status: 429 });
  void ask("api-key 2", "other");
  expect(begun).toEqual(["flood 0", "other"]);
  expect(all).toHaveLength(5_001);
});

test("a lane goes with what was begun in it, also when its turn comes by the end of another's", async () => {
  const takeTurn = turnsAt(1);
  const [end, ended] = gate();
  const order: string[] = [];
  const note = (name: string) => takeTurn(async () => void order.push(name));
  void inLane("api-key 1", () => takeTurn(() => ended));
  const other = inLane("api-key 2", () =>
    takeTurn(async () => {
      await ended;
      // Waits in its own lane, and not in that of api-key 1, whose end frees the slot.
      void note("second of 2");
    }),
  );
  const own = inLane("api-key 1", async () => {
    await Promise.all([note("first of 1"), note("second of 1")]);
  });
  end();
  await Promise.all([other, own]);
  await note("at last");
  expect(order).toEqual(["first of 1", "second of 2", "second of 1", "at last"]);
});

test("DT4: the health report waits for nobody, and asks once for all who ask together", async () => {
  const { ask, takeTurn } = scripted(2);
  for (const key of ["1", "2", "3"]) void flood((lane, name) => ask(lane + key, name), 100);
  const [end, ended] = gate();
  let pings = 0;
  const ping = createHealthPing(() => takeTurn(() => ((pings += 1), ended)));
  const asked = inLane("api-key 1", () => [ping(), ping()]);
  expect(pings).toBe(1);
  end();
  await Promise.all(asked);
  const [failing, next] = [
    createHealthPing(() => takeTurn(() => Promise.reject(new Error("gone")))),
    ping(),
  ];
  await expect(failing()).rejects.toThrow("gone");
  await expect(failing(), "and asks again after that").rejects.toThrow("gone");
  await next;
  expect(pings).toBe(2);
});

test("what the gateway does by itself has a turn where whoever made it begin has none", async () => {
  const { ask, begun, endOne, takeTurn } = scripted(1);
  void flood(ask, 5_001);
  const own = inLane("api-key 1", () => inOwnLane(() => takeTurn(async () => "done")));
  await expect(ask("api-key 1", "one more")).rejects.toMatchObject({ status: 429 });
  await endOne();
  expect(await own).toBe("done");
  expect(begun[0]).toBe("flood 0");
});

test("guesses without a bound", async () => {
  const guesses = createGuesses(0, "API keys");
  for (let at = 0; at < 1_000; at += 1)
    expect(await guesses.judge("10.0.0.1", async () => undefined)).toBeUndefined();
});
