import { expect, test } from "vitest";
import { createRateLimiter } from "../src/auth/rate-limit.ts";

test("the headers count down, and say in unix seconds when the budget is whole again", async () => {
  const limiter = createRateLimiter(3);
  const nowS = Date.now() / 1000;
  const first = await limiter.take("a");
  expect(first).toMatchObject({ "x-ratelimit-limit": "3", "x-ratelimit-remaining": "2" });
  expect(Number(first["x-ratelimit-reset"])).toBeGreaterThan(nowS);
  expect(Number(first["x-ratelimit-reset"])).toBeLessThanOrEqual(nowS + 62);
  expect(await limiter.take("a")).toMatchObject({ "x-ratelimit-remaining": "1" });
  expect(await limiter.take("b")).toMatchObject({ "x-ratelimit-remaining": "2" });
});

test("over it: 429 with the same number of seconds for both SDKs, in a text that names no quota", async () => {
  const limiter = createRateLimiter(1);
  await limiter.take("a");
  const refused = (await limiter.take("a").catch((error: unknown) => error)) as Error & {
    details: { retry_after_seconds: number };
    headers: Record<string, string>;
  };
  expect(refused).toMatchObject({ status: 429, code: "RATE_LIMIT_EXCEEDED" });
  expect(refused.headers).toMatchObject({
    "x-ratelimit-remaining": "0",
    "retry-after": String(refused.details.retry_after_seconds),
  });
  expect(refused.details.retry_after_seconds).toBeGreaterThanOrEqual(1);
  expect(refused.message).not.toMatch(/limit|quota/i);
});

test("0 turns it off: no headers, no end", async () => {
  const limiter = createRateLimiter(0);
  for (let at = 0; at < 100; at += 1) expect(await limiter.take("a")).toEqual({});
});
