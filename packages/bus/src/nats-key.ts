/**
 * NKeys of NATS users: an Ed25519 seed that a program keeps, and the public half that the servers
 * know. The library encodes and decodes them. Node.js does the cryptography, because the library's
 * is JavaScript, and took a sixth of the CPU time of a program's start.
 */
import { createPrivateKey, createPublicKey, type KeyObject, sign } from "node:crypto";
import { type Authenticator, nkeys } from "@nats-io/nats-core";
import { Codec } from "@nats-io/nkeys/lib/codec.js";

/** Bytes before the 32 bytes of an Ed25519 seed, by RFC 8410. */
const PKCS8_HEAD = Buffer.from("302e020100300506032b657004220420", "hex");

export interface NatsKey {
  /** A secret. */
  seed: string;
  publicKey: string;
}

export function createNatsKey(): NatsKey {
  const pair = nkeys.createUser();
  const seed = new TextDecoder().decode(pair.getSeed());
  return { seed, publicKey: publicKeyOf(seed) };
}

/** Throws when the text is not the seed of a user. */
export function publicKeyOf(seed: string): string {
  const publicKey = textOf(seed, keyOf(seed));
  if (!isNatsPublicKey(publicKey)) throw new Error("it is the seed of something else than a user");
  return publicKey;
}

/** True for the public key of a user, with a valid checksum. */
export function isNatsPublicKey(text: string): boolean {
  if (!/^U[A-Z2-7]{55}$/.test(text)) return false;
  try {
    nkeys.fromPublic(text);
    return true;
  } catch {
    return false;
  }
}

/** Signs a server's challenge at each connection. Throws when the text is not a seed. */
export function keyAuthenticator(seed: string): Authenticator {
  const key = keyOf(seed);
  const nkey = textOf(seed, key);
  return (nonce = "") => ({ nkey, sig: nkeys.encode(sign(null, Buffer.from(nonce), key)) });
}

const decoded = (seed: string) => Codec.decodeSeed(new TextEncoder().encode(seed));

function keyOf(seed: string): KeyObject {
  const der = Buffer.concat([PKCS8_HEAD, decoded(seed).buf]);
  return createPrivateKey({ key: der, format: "der", type: "pkcs8" });
}

/** The public half as text. */
function textOf(seed: string, key: KeyObject): string {
  const { x = "" } = createPublicKey(key).export({ format: "jwk" });
  return new TextDecoder().decode(Codec.encode(decoded(seed).prefix, Buffer.from(x, "base64url")));
}
