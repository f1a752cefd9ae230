import { nkeyAuthenticator, nkeys } from "@nats-io/nats-core";
import { describe, expect, test } from "vitest";
import { createNatsKey, isNatsPublicKey, keyAuthenticator, publicKeyOf } from "../src/nats-key.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

describe("a key of a NATS user", () => {
  test("is the library's own: the same public half, and the same answer to a challenge", () => {
    for (let times = 0; times < 20; times += 1) {
      const { seed, publicKey } = createNatsKey();
      const pair = nkeys.fromSeed(bytes(seed));
      expect([publicKey, publicKeyOf(seed)]).toEqual([pair.getPublicKey(), pair.getPublicKey()]);
      const nonce = `nonce-${times}`;
      expect(keyAuthenticator(seed)(nonce)).toEqual(nkeyAuthenticator(bytes(seed))(nonce));
    }
  });

  test("is refused where it is a seed of something else, or none", () => {
    const account = new TextDecoder().decode(nkeys.createAccount().getSeed());
    const user = createNatsKey();
    for (const wrong of [account, user.publicKey, user.seed.slice(1), "", "SU"])
      expect(() => publicKeyOf(wrong), wrong).toThrow(Error);
    expect(isNatsPublicKey(user.publicKey)).toBe(true);
    expect(
      isNatsPublicKey(user.publicKey.replace(/.$/, (last) => (last === "A" ? "B" : "A"))),
    ).toBe(false);
  });
});
