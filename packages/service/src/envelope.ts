/**
 * Envelope encryption: each text has its own data key, wrapped by a key that is stored elsewhere.
 * AES-256-GCM both times; a text that is sealed for one context does not open in another.
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

/** Like SealedValue in @torpor/contracts, which this package cannot import. */
interface Sealed extends WrappedKey {
  ciphertext: string;
}

/** Interface of a key management service. The wrapping keys never leave the service. */
export interface KeyManagement {
  /** Id of the key that wraps from now on. */
  readonly keyId: string;
  wrap(dataKey: Buffer): Promise<WrappedKey>;
  /** Throws when the key is unknown, or did not wrap that data key. */
  unwrap(wrapped: WrappedKey): Promise<Buffer>;
}

/** Keys from secrets: the first one wraps, all of them unwrap. Throws when one is too short. */
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
  /** Id of the wrapping key; undefined: there is no key, and nothing is sealed. */
  readonly keyId: string | undefined;
  /** `context` is not secret; `open` needs the same one. Undefined: there is no key. */
  seal(context: string, text: string): Promise<Sealed | undefined>;
  /** Throws when the key is missing, the context differs, or the text was changed. */
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

/** Keys from two settings: a file, and files with commas between them. */
export function envelopeFrom(keyFile: string | undefined, acceptedKeyFiles = ""): Envelope {
  if (keyFile === undefined) return createEnvelope(undefined);
  return createEnvelope(keysOf(readSecret(keyFile), readSecrets(acceptedKeyFiles)));
}
