/** When a certificate is renewed, and when a missing renewal is a problem. */
import { X509Certificate } from "node:crypto";
import { expect, test } from "vitest";
import { Authority, createAuthority } from "../src/authority.ts";
import { certificateProblems, isRenewalDue, renewalDueMs } from "../src/index.ts";
import { shareOf, validityOf } from "../src/lifetime.ts";

const DAY_MS = 86_400_000;

test.each([1_000, DAY_MS, 365 * DAY_MS])(
  "of a lifetime of %d ms, two thirds have passed when it is due, more or less",
  (lifetimeMs) => {
    const validity = { notBeforeMs: 1e12, notAfterMs: 1e12 + lifetimeMs };
    const partAt = (share: number) => (renewalDueMs(validity, share) - 1e12) / lifetimeMs;
    expect(partAt(0)).toBeCloseTo(0.617);
    expect(partAt(0.5)).toBeCloseTo(0.667);
    expect(partAt(1)).toBeCloseTo(0.717);
  },
);

test("one certificate is due at one time, certificates of one moment are not", async () => {
  const authority = await Authority.open(await createAuthority());
  const make = async () => {
    const { certificatePem } = await authority.issue({ identity: { role: "gateway" }, days: 30 });
    return new X509Certificate(certificatePem);
  };
  const [first, second] = [await make(), await make()];
  expect(shareOf(first)).toBeGreaterThanOrEqual(0);
  expect(shareOf(first)).toBeLessThan(1);
  expect(shareOf(first)).toBe(shareOf(new X509Certificate(first.toString())));
  expect(shareOf(first)).not.toBe(shareOf(second));
  const { notBeforeMs, notAfterMs } = validityOf(first);
  expect(isRenewalDue(first, notBeforeMs)).toBe(false);
  expect(isRenewalDue(first, notBeforeMs + (notAfterMs - notBeforeMs) * 0.72)).toBe(true);
  // Before and after five sixths of the lifetime, and after its end.
  const at = (part: number) => notBeforeMs + (notAfterMs - notBeforeMs) * part;
  expect(certificateProblems(first, undefined, at(0.83))).toEqual([]);
  expect(certificateProblems(first, "it was revoked", at(0.84))).toMatchObject([
    {
      code: "CERTIFICATE_ENDS",
      subject: "URI:spiffe://torpor/gateway",
      message: expect.stringMatching(/ ends at .* not renewed \(it was revoked\)/),
    },
  ]);
  expect(certificateProblems(first, undefined, at(1.1))).toMatchObject([
    { message: expect.stringContaining("has ended at") },
  ]);
  expect(certificateProblems(undefined)).toEqual([]);
});
