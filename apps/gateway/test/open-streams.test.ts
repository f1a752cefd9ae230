/** Streams at the edge end with their credential. The database is scripted. */
import { PassThrough } from "node:stream";
import { unverifiedSandboxId } from "@torpor/contracts";
import type { StreamCredential } from "@torpor/db";
import { expect, test } from "vitest";
import { OpenStreams } from "../src/edge/open-streams.ts";

const token = (id: string): StreamCredential => ({
  sandboxId: unverifiedSandboxId(id),
  generation: 0,
});

function scripted(now?: () => number) {
  const asked: StreamCredential[][] = [];
  const revoked = new Set<string>();
  const streams = new OpenStreams(async (shown) => {
    asked.push([...shown]);
    return shown.flatMap((one, at) => (revoked.has(JSON.stringify(one)) ? [at] : []));
  }, now);
  const open = (credential: StreamCredential, expiresAtMs?: number) => {
    const stream = new PassThrough();
    streams.watch(stream, { credential, ...(expiresAtMs === undefined ? {} : { expiresAtMs }) });
    return stream;
  };
  const revoke = (credential: StreamCredential) => revoked.add(JSON.stringify(credential));
  return { asked, streams, open, revoke };
}

test("OS1: all that was opened with a credential ends when that has, and nothing else", async () => {
  const { streams, open, revoke, asked } = scripted();
  const [mine, beside, key] = [open(token("a")), open(token("a")), open({ apiKeyId: 1 })];
  await streams.endOver();
  revoke(token("a"));
  expect(await streams.endOver()).toEqual({ open: 3, ended: 2 });
  expect([mine, beside, key].map(({ destroyed }) => destroyed)).toEqual([true, true, false]);
  expect(asked, "each credential once").toEqual([[token("a"), { apiKeyId: 1 }]]);
  await new Promise((resolve) => setImmediate(resolve));
  expect(await streams.endOver()).toEqual({ open: 1, ended: 0 });
});

test("OS1, OS2: what is over by the next round is not asked about, nor what never was open", async () => {
  const { streams, open, asked } = scripted();
  open(token("a")).destroy();
  const ended = new PassThrough();
  ended.destroy();
  streams.watch(ended, { credential: token("b") });
  await new Promise((resolve) => setImmediate(resolve));
  const late = open(token("c"));
  expect(await streams.endOver()).toEqual({ open: 1, ended: 0 });
  late.destroy();
  await new Promise((resolve) => setImmediate(resolve));
  expect(await streams.endOver()).toEqual({ open: 0, ended: 0 });
  expect(asked).toEqual([]);
});

test("what a cookie opened ends when that expires, and what another of the same sandbox opened does not", async () => {
  let nowMs = 1_000;
  const { streams, open, asked } = scripted(() => nowMs);
  const [first, second, tokens] = [
    open(token("a"), 5_000),
    open(token("a"), 9_000),
    open(token("a")),
  ];
  await streams.endOver();
  nowMs = 4_999;
  expect(await streams.endOver()).toEqual({ open: 3, ended: 0 });
  nowMs = 5_000;
  expect(await streams.endOver()).toEqual({ open: 3, ended: 1 });
  expect([first, second, tokens].map(({ destroyed }) => destroyed)).toEqual([true, false, false]);
  expect(asked.at(-1), "cookies of one sandbox are asked about once").toEqual([token("a")]);
});

test("OS3: nothing ends while the database does not answer, but what has expired", async () => {
  const streams = new OpenStreams(() => Promise.reject(new Error("no database")));
  const [stream, expired] = [new PassThrough(), new PassThrough()];
  streams.watch(stream, { credential: token("a") });
  streams.watch(expired, { credential: token("b"), expiresAtMs: 1 });
  await streams.endOver();
  await expect(streams.endOver()).rejects.toThrow("no database");
  expect([stream.destroyed, expired.destroyed]).toEqual([false, true]);
});
