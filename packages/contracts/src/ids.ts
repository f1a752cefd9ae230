import { randomInt, randomUUID } from "node:crypto";
import { Type } from "typebox";

/**
 * 10-digit unix time + 8 lowercase alphanumerics, e.g. `1763309903rt5vs4lm`. Globally unique, and
 * never reused, because SDKs cache tokens by id.
 */
export const SandboxId = Type.String({
  pattern: "^[0-9]{10}[a-z0-9]{8}$",
  description: "10-digit unix time + 8 lowercase alphanumerics",
});
export const OperationId = Type.String({ pattern: "^op_[0-9a-f]{32}$" });
export const HostId = Type.String({ pattern: "^[a-z0-9][a-z0-9-]{0,62}$" });

const ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789";

export function newSandboxId(nowMs: number = Date.now()): string {
  const seconds = Math.floor(nowMs / 1000)
    .toString()
    .padStart(10, "0");
  return (
    seconds + Array.from({ length: 8 }, () => ALPHABET.charAt(randomInt(ALPHABET.length))).join("")
  );
}

export function newOperationId(): string {
  return `op_${randomUUID().replaceAll("-", "")}`;
}
