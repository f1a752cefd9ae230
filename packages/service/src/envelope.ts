/**
 * Envelope encryption: each text has a data key of its own, which a key wraps that is nowhere near
 * the text. AES-256-GCM both times; what is sealed for one context opens in no other.
 */
import { createHash, hkdfSync, randomBytes } from "node:crypto";
import { decrypt, encrypt, KEY_BYTES } from "./aead.ts";
import { ConfigurationError, readSecret, readSecrets } from "./config.ts";

const MIN_SECRET_BYTES = 32;
const KEY_ID_DIGITS = 16;

interface WrappedKey {
  keyId: string;
  wrappedKey: string;
}

/** As @torpor/contracts has it, of which this package knows nothing. */
interface Sealed extends WrappedKey {
  ciphertext: string;
}

/** What is asked of a key management service. The keys that wrap never leave it. */
export interface KeyManagement {
  /** Names the key that wraps from now on. */
  readonly keyId: string;
  wrap(dataKey: Buffer): Promise<WrappedKey>;
  /** Throws when there is no such key, or it did not wrap that. */
  unwrap(wrapped: WrappedKey): Promise<Buffer>;
}

/** Keys in files: the first wraps, all unwrap. Throws when one is too short. */
export function keysOf(secret: string, accepted: readonly string[] = []): KeyManagement {
  const first = wrappingKey(secret);
  const known = new Map([first, ...accepted.map(wrappingKey)].map((key) => [key.id, key.bytes]));
  return {
    keyId: first.id,
    async wrap(dataKey) {
      const wrappedKey = encrypt(first.bytes, dataKey, first.id).toString("base64");
      return { keyId: first.id, wrappedKey };
    },
    async unwrap({ keyId, wrappedKey }) {
      const key = known.get(keyId);
      if (key === undefined)
        throw new Error(
          `key ${keyId} is in none of the files of ENV_KEY_FILE and ENV_ACCEPTED_KEY_FILES`,
        );
      return decrypt(key, Buffer.from(wrappedKey, "base64"), keyId);
    },
  };
}

function wrappingKey(secret: string): { id: string; bytes: Buffer } {
  if (Buffer.byteLength(secret) < MIN_SECRET_BYTES)
    throw new ConfigurationError(
      `an encryption key has fewer than ${MIN_SECRET_BYTES} bytes: generate a longer one`,
    );
  const bytes = Buffer.from(hkdfSync("sha256", secret, "", "torpor data keys", KEY_BYTES));
  const digest = createHash("sha256").update("torpor key id").update(bytes).digest("hex");
  return { id: digest.slice(0, KEY_ID_DIGITS), bytes };
}

export interface Envelope {
  /** Names the key that wraps; undefined: there is none, and nothing is sealed. */
  readonly keyId: string | undefined;
  /**
   * `context` is not secret, and has to be the same again to open it. Undefined: there is no key.
   */
  seal(context: string, text: string): Promise<Sealed | undefined>;
  /** Throws when its key is not here, or it was sealed for another context, or changed. */
  open(context: string, sealed: Sealed): Promise<string>;
}

export function createEnvelope(keys: KeyManagement | undefined): Envelope {
  return {
    keyId: keys?.keyId,
    async seal(context, text) {
      if (keys === undefined) return undefined;
      const dataKey = randomBytes(KEY_BYTES);
      const wrapped = await keys.wrap(dataKey);
      const ciphertext = encrypt(dataKey, Buffer.from(text), context).toString("base64");
      return { ...wrapped, ciphertext };
    },
    async open(context, { ciphertext, ...wrapped }) {
      if (keys === undefined)
        throw new Error(`it was encrypted with key ${wrapped.keyId}, and ENV_KEY_FILE is not set`);
      const dataKey = await keys.unwrap(wrapped);
      return decrypt(dataKey, Buffer.from(ciphertext, "base64"), context).toString();
    },
  };
}

/** With the keys of two settings: a file, and files with commas between them. */
export function envelopeFrom(keyFile: string | undefined, acceptedKeyFiles = ""): Envelope {
  if (keyFile === undefined) return createEnvelope(undefined);
  return createEnvelope(keysOf(readSecret(keyFile), readSecrets(acceptedKeyFiles)));
}
