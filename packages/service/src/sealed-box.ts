/**
 * Texts that anyone can encrypt for one receiver, and only the receiver can read: X25519 with a key
 * pair per text, HKDF-SHA-256, AES-256-GCM. A text does not prove its sender.
 */
import {
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
} from "node:crypto";
import { decrypt, encrypt, KEY_BYTES } from "./aead.ts";

const INFO = "torpor sealed box 1";

export interface SealedBox {
  /** Public half of the text's key pair: 32 bytes, base64url. */
  ephemeralKey: string;
  /** Base64. */
  ciphertext: string;
}

/** Makes a private key, PEM. */
export function createBoxKey(): string {
  const { privateKey } = generateKeyPairSync("x25519");
  return privateKey.export({ type: "pkcs8", format: "pem" }).toString();
}

/** Public key: 32 bytes, base64url. Throws when the PEM is not a private key of this kind. */
export function boxPublicKey(privateKeyPem: string): string {
  return rawOf(createPublicKey(privateKeyIn(privateKeyPem)));
}

/** True if texts can be sealed for the key; false for weak keys, whose secrets are public. */
export function isBoxPublicKey(text: string): boolean {
  try {
    sealFor(text, "", "");
    return true;
  } catch {
    return false;
  }
}

/** `context` is not secret; `openBox` needs the same one. */
export function sealFor(publicKey: string, context: string, text: string): SealedBox {
  const pair = generateKeyPairSync("x25519");
  const ephemeralKey = rawOf(pair.publicKey);
  const key = sharedKey(pair.privateKey, publicKeyIn(publicKey), [ephemeralKey, publicKey]);
  return { ephemeralKey, ciphertext: encrypt(key, Buffer.from(text), context).toString("base64") };
}

/** Throws when the key or the context differs, or the text was changed. */
export function openBox(privateKeyPem: string, context: string, sealed: SealedBox): string {
  const { ephemeralKey, ciphertext } = sealed;
  const own = privateKeyIn(privateKeyPem);
  const names: [string, string] = [ephemeralKey, rawOf(createPublicKey(own))];
  const key = sharedKey(own, publicKeyIn(ephemeralKey), names);
  return decrypt(key, Buffer.from(ciphertext, "base64"), context).toString();
}

function sharedKey(privateKey: KeyObject, publicKey: KeyObject, names: [string, string]): Buffer {
  const secret = diffieHellman({ privateKey, publicKey });
  return Buffer.from(hkdfSync("sha256", secret, names.join("."), INFO, KEY_BYTES));
}

function privateKeyIn(pem: string): KeyObject {
  const key = createPrivateKey(pem);
  if (key.asymmetricKeyType !== "x25519") throw new Error("it is no X25519 key");
  return key;
}

const publicKeyIn = (x: string) =>
  createPublicKey({ key: { kty: "OKP", crv: "X25519", x }, format: "jwk" });

function rawOf(publicKey: KeyObject): string {
  const { x } = publicKey.export({ format: "jwk" });
  if (x === undefined) throw new Error("it is no X25519 key");
  return x;
}
