/** Name servers of guests: configured ones are checked, and none is in the guests' own network. */
import { expect, test } from "vitest";
import { findResolvers } from "../src/host/isolation/resolvers.ts";

test("given ones are taken once each", async () => {
  expect(await findResolvers("192.0.2.53, 198.51.100.53,192.0.2.53")).toEqual([
    "192.0.2.53",
    "198.51.100.53",
  ]);
});

test.each(["dns.example", "192.0.2.53,", "2001:db8::53"])(
  "EGRESS_DNS=%s is refused",
  async (setting) => {
    await expect(findResolvers(setting)).rejects.toThrow(/EGRESS_DNS has to be IPv4 addresses/);
  },
);

test("one on the loopback is refused: it would be the guest's own", async () => {
  await expect(findResolvers("192.0.2.53,127.0.0.53")).rejects.toThrow(
    /EGRESS_DNS has 127\.0\.0\.53/,
  );
});

test("one on the guests' own link is refused: they would look for it there", async () => {
  await expect(findResolvers("192.0.2.53,10.0.2.3")).rejects.toThrow(/EGRESS_DNS has 10\.0\.2\.3/);
});
