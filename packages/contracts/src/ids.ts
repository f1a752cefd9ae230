import { randomInt, randomUUID } from "node:crypto";
import { Type } from "typebox";
import { Compile } from "typebox/compile";

/**
 * Each kind of id has a type of its own: a sandbox's id cannot be passed where a host's is meant,
 * and no text where an id is. The brand exists only for the compiler.
 */
declare const brand: unique symbol;
export type SandboxId = string & { readonly [brand]: "SandboxId" };
export type OperationId = string & { readonly [brand]: "OperationId" };
export type HostId = string & { readonly [brand]: "HostId" };

/**
 * 10-digit unix time + 8 lowercase alphanumerics, e.g. `1763309903rt5vs4lm`. Globally unique, and
 * never reused, because SDKs cache tokens by id.
 */
export const SandboxId = Type.Unsafe<SandboxId>(
  Type.String({
    pattern: "^[0-9]{10}[a-z0-9]{8}$",
    description: "10-digit unix time + 8 lowercase alphanumerics",
  }),
);
export const OperationId = Type.Unsafe<OperationId>(Type.String({ pattern: "^op_[0-9a-f]{32}$" }));
export const HostId = Type.Unsafe<HostId>(Type.String({ pattern: "^[a-z0-9][a-z0-9-]{0,62}$" }));

const sandboxId = Compile(SandboxId);
const operationId = Compile(OperationId);
const hostId = Compile(HostId);

/** True for a text of the form of an id, whether there is anything of that id or not. */
export const isSandboxId = (text: string): text is SandboxId => sandboxId.Check(text);
export const isOperationId = (text: string): text is OperationId => operationId.Check(text);
export const isHostId = (text: string): text is HostId => hostId.Check(text);

/**
 * The text as an id, not checked: where it only names what is looked up, so that one that is no id
 * finds nothing, and for ids that a program makes for itself.
 */
export const unverifiedSandboxId = (text: string) => text as SandboxId;
export const unverifiedHostId = (text: string) => text as HostId;

const ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789";

export function newSandboxId(nowMs: number = Date.now()): SandboxId {
  const seconds = Math.floor(nowMs / 1000)
    .toString()
    .padStart(10, "0");
  const random = Array.from({ length: 8 }, () => ALPHABET.charAt(randomInt(ALPHABET.length)));
  return (seconds + random.join("")) as SandboxId;
}

/** No operation has this id. */
export const NO_OPERATION_ID = `op_${"0".repeat(32)}` as OperationId;

export function newOperationId(): OperationId {
  return `op_${randomUUID().replaceAll("-", "")}` as OperationId;
}
