/**
 * A text that is stored encrypted, with its own data key, which a key outside the database wraps.
 */
export interface SealedValue {
  /** Id of the key that wraps the data key. */
  keyId: string;
  /** Base64. */
  wrappedKey: string;
  /** Base64. */
  ciphertext: string;
}
