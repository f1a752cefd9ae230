/** What is open at the edge ends with what it was opened with. The database's answers are scripted. */
import { PassThrough } from "node:stream";
import type { StreamCredential } from "@torpor/db";
import { expect, test } from "vitest";
import { OpenStreams } from "../src/edge/open-streams.ts";

const token = (sandboxId: string): StreamCredential => ({ sandboxId, generation: 0 });

function scripted() {
  const asked: StreamCredential[][] = [];
  const revoked = new Set<string>();
  const streams = new OpenStreams(async (shown) => {
    asked.push([...shown]);
    return shown.flatMap((one, at) => (revoked.has(JSON.stringify(one)) ? [at] : []));
  });
  const open = (credential: StreamCredential) => {
    const stream = new PassThrough();
    streams.watch(stream, credential);
    return stream;
  };
  const revoke = (credential: StreamCredential) => revoked.add(JSON.stringify(credential));
  return { asked, streams, open, revoke };
}

test("all that was opened with a credential ends when that has, and nothing else", async () => {
  const { streams, open, revoke, asked } = scripted();
  const [mine, beside, key] = [open(token("a")), open(token("a")), open({ apiKeyId: 1 })];
  await streams.endRevoked();
  revoke(token("a"));
  expect(await streams.endRevoked()).toEqual({ open: 3, ended: 2 });
  expect([mine, beside, key].map(({ destroyed }) => destroyed)).toEqual([true, true, false]);
  expect(asked, "each credential once").toEqual([[token("a"), { apiKeyId: 1 }]]);
  await new Promise((resolve) => setImmediate(resolve));
  expect(await streams.endRevoked()).toEqual({ open: 1, ended: 0 });
});

test("what is over by the next round is not asked about, nor what never was open", async () => {
  const { streams, open, asked } = scripted();
  open(token("a")).destroy();
  const ended = new PassThrough();
  ended.destroy();
  streams.watch(ended, token("b"));
  await new Promise((resolve) => setImmediate(resolve));
  const late = open(token("c"));
  expect(await streams.endRevoked()).toEqual({ open: 1, ended: 0 });
  late.destroy();
  await new Promise((resolve) => setImmediate(resolve));
  expect(await streams.endRevoked()).toEqual({ open: 0, ended: 0 });
  expect(asked).toEqual([]);
});

test("nothing ends while the database does not answer", async () => {
  const streams = new OpenStreams(() => Promise.reject(new Error("no database")));
  const stream = new PassThrough();
  streams.watch(stream, token("a"));
  await streams.endRevoked();
  await expect(streams.endRevoked()).rejects.toThrow("no database");
  expect(stream.destroyed).toBe(false);
});
