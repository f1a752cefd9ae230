/**
 * A text that is kept encrypted: with a data key of its own, which a key outside of the database
 * wraps.
 */
export interface SealedValue {
  /** Names the key that wraps the data key. */
  keyId: string;
  /** Base64. */
  wrappedKey: string;
  /** Base64. */
  ciphertext: string;
}
