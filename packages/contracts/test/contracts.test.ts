import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  CommitRequest,
  compareObservations,
  decoder,
  hostIdOf,
  InvalidMessageError,
  newOperationId,
  newSandboxId,
  patterns,
  SandboxId,
  STREAMS,
  subjects,
  unverifiedHostId,
} from "../src/index.ts";
import { Check } from "typebox/value";

const bytes = (value: unknown) =>
  new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));

describe("ids", () => {
  test("a sandbox id is 10 digits of unix time and 8 lowercase alphanumerics, and sorts by age", () => {
    const [older, newer] = [newSandboxId(1_763_309_903_000), newSandboxId(1_763_309_904_000)];
    expect(Check(SandboxId, older)).toBe(true);
    expect(older.startsWith("1763309903")).toBe(true);
    expect([newer, older].toSorted()).toEqual([older, newer]);
  });
});

describe("subjects", () => {
  test("every subject falls under the pattern that its readers subscribe to", () => {
    const matches = (pattern: string, subject: string) =>
      new RegExp(`^${pattern.replaceAll(".", "\\.").replaceAll("*", "[^.]+")}$`).test(subject);
    const [host, other] = [unverifiedHostId("a-1"), unverifiedHostId("a-2")];
    expect(matches(patterns.intents, subjects.intent("pause"))).toBe(true);
    expect(matches(patterns.commandsOf(host), subjects.command(host, "pause"))).toBe(true);
    expect(matches(patterns.commandsOf(other), subjects.command(host, "pause"))).toBe(false);
    expect(matches(patterns.observations, subjects.observation(host, "running"))).toBe(true);
    expect(matches(patterns.events, subjects.sandboxEvent(newSandboxId(), "paused"))).toBe(true);
    expect(hostIdOf(subjects.request(host, "commit"))).toBe("a-1");
    expect(hostIdOf(subjects.intent("pause"))).toBeUndefined();
    expect(hostIdOf(subjects.controlRequest("placement"))).toBeUndefined();
  });

  test("no two streams take the same subject", () => {
    const all = Object.values(STREAMS).flatMap((stream) => [...stream.subjects]);
    expect(new Set(all).size).toBe(all.length);
  });
});

describe("decode", () => {
  const commit = decoder(CommitRequest);
  const valid = {
    type: "commit",
    version: 1,
    hostId: "a-1",
    sandboxId: newSandboxId(),
    operationId: newOperationId(),
    epoch: 1,
    opSeq: 1,
  };

  test("fields of a newer writer are ignored", () => {
    expect(commit("s", bytes({ ...valid, addedLater: true }))).toMatchObject(valid);
  });

  test("anything that does not match is an InvalidMessageError that names the field and keeps the cause", () => {
    expect(() => commit("s", bytes("{"))).toThrow(InvalidMessageError);
    expect(() => commit("s", bytes({ ...valid, sandboxId: "a-1" }))).toThrow(/sandboxId/);
    expect(() => commit("s", Uint8Array.of(0xff, 0xfe))).toThrow(InvalidMessageError);
  });

  test("no bytes make it throw anything else", () => {
    fc.assert(
      fc.property(fc.uint8Array(), (garbage) => {
        try {
          commit("s", garbage);
        } catch (error) {
          expect(error).toBeInstanceOf(InvalidMessageError);
        }
      }),
    );
  });
});

test("observations are ordered by epoch, then command, then revision", () => {
  const order = (epoch: number, opSeq: number, revision: number) => ({ epoch, opSeq, revision });
  expect(compareObservations(order(2, 1, 1), order(1, 9, 9))).toBeGreaterThan(0);
  expect(compareObservations(order(1, 2, 1), order(1, 1, 9))).toBeGreaterThan(0);
  expect(compareObservations(order(1, 1, 1), order(1, 1, 2))).toBeLessThan(0);
  expect(compareObservations(order(1, 1, 1), order(1, 1, 1))).toBe(0);
});
