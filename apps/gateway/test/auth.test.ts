/** How long a key is cached, and how often its use is recorded. Database and clock are scripted. */
import type { Database } from "@torpor/db";
import { pino } from "pino";
import { beforeEach, describe, expect, test } from "vitest";
import { type ApiKeys, createApiKeys } from "../src/auth/auth.ts";
import { createGuesses } from "../src/auth/guesses.ts";

const GUESSES = 5;
let nowMs: number;
let asked: number;
let notes: number;
let goodForMs: number | null | undefined;
let noteFails: boolean;
let keys: ApiKeys;

const log = pino({ level: "silent" });
/** `goodForMs` undefined: the key is unknown, revoked or expired. */
const rows = () =>
  goodForMs === undefined
    ? []
    : [{ apiKeyId: 1, organizationId: 1, scopes: ["read"], expiresAt: null, goodForMs }];
const db = {
  select: () => ({
    from: () => ({
      where: async () => {
        asked += 1;
        return rows();
      },
    }),
  }),
  update: () => ({
    set: () => ({
      where: async () => {
        notes += 1;
        if (noteFails) throw new Error("no database");
      },
    }),
  }),
} as unknown as Database;

beforeEach(() => {
  nowMs = 1_000_000;
  asked = 0;
  notes = 0;
  goodForMs = null;
  noteFails = false;
  keys = createApiKeys({ db, log, guesses: createGuesses(GUESSES, "API keys") }, () => nowMs);
});
const ADDRESS = "10.0.0.1";
const find = (key: string, address = ADDRESS) => keys.find(key, address);
const isGood = async () => (await find("key")) !== undefined;

test("a key that was revoked is good for 5 s at most", async () => {
  expect(await isGood()).toBe(true);
  goodForMs = undefined;
  nowMs += 4_999;
  expect(await isGood()).toBe(true);
  expect(asked).toBe(1);
  nowMs += 1;
  expect(await isGood()).toBe(false);
});

test("a key that expires is not remembered beyond that", async () => {
  goodForMs = 2_000;
  expect(await isGood()).toBe(true);
  goodForMs = undefined;
  nowMs += 1_999;
  expect(await isGood()).toBe(true);
  nowMs += 1;
  expect(await isGood()).toBe(false);
});

test("one that expires later is asked about as often as any", async () => {
  goodForMs = 3_600_000;
  expect(await isGood()).toBe(true);
  nowMs += 5_000;
  expect(await isGood()).toBe(true);
  expect(asked).toBe(2);
});

test("what is not a key is not remembered: it may become one", async () => {
  goodForMs = undefined;
  expect(await isGood()).toBe(false);
  goodForMs = null;
  expect(await isGood()).toBe(true);
  expect(await find("x".repeat(513)), "too long to be one").toBeUndefined();
});

test("use is noted once in a minute, however often the key comes, and never for a wrong one", async () => {
  for (let at = 0; at < 600; at += 1) {
    await isGood();
    nowMs += 100;
  }
  expect(notes).toBe(1);
  nowMs += 1_000;
  await isGood();
  expect(notes).toBe(2);
  goodForMs = undefined;
  nowMs += 61_000;
  await isGood();
  expect(notes).toBe(2);
});

test("a use that cannot be noted refuses nobody", async () => {
  noteFails = true;
  expect(await isGood()).toBe(true);
  expect(notes).toBe(1);
  nowMs += 61_000;
  expect(await isGood()).toBe(true);
  expect(notes).toBe(2);
});

describe("guesses", () => {
  const guess = (address?: string, key = "guess") =>
    find(key, address).catch((error: unknown) => error as object);
  const refused = { status: 429, headers: { "retry-after": expect.stringMatching(/^[1-6]?\d$/) } };

  test("are counted before the database is asked, and for their own address alone", async () => {
    goodForMs = undefined;
    const together = await Promise.all(
      Array.from({ length: 3 * GUESSES }, (_, at) => guess(ADDRESS, `guess ${at}`)),
    );
    expect(together.filter((answer) => answer === undefined)).toHaveLength(GUESSES);
    expect(asked).toBe(GUESSES);
    expect(await guess()).toMatchObject(refused);
    expect(await guess("10.0.0.2")).toBeUndefined();
    expect(asked).toBe(GUESSES + 1);
  });

  test("a good key that comes often at once is looked up once, and refused to nobody", async () => {
    const together = await Promise.all(Array.from({ length: 3 * GUESSES }, isGood));
    expect(together).not.toContain(false);
    expect(asked).toBe(1);
  });

  test("good keys are none, nor are look-ups that fail", async () => {
    for (let at = 0; at < 3 * GUESSES; at += 1) expect(await find(`key ${at}`)).toBeDefined();
    goodForMs = undefined;
    for (let at = 0; at < GUESSES; at += 1) expect(await guess()).toBeUndefined();
    expect(await guess()).toMatchObject(refused);
  });

  test("a key that was good is looked up whatever else comes from its address", async () => {
    expect(await isGood()).toBe(true);
    for (let at = 0; at < GUESSES; at += 1) {
      goodForMs = undefined;
      expect(await guess()).toBeUndefined();
    }
    goodForMs = null;
    expect(await guess()).toMatchObject(refused);
    nowMs += 5_000;
    expect(await isGood()).toBe(true);
    goodForMs = undefined;
    nowMs += 5_000;
    expect(await isGood()).toBe(false);
    expect(await find("key").catch((error: unknown) => error)).toMatchObject(refused);
  });
});
