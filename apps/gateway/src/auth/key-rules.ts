/**
 * The API keys that a key may create, rotate and revoke. Each check returns undefined if it may.
 */
import type { Scope } from "@torpor/contracts";
import type { ApiKeyOwner } from "@torpor/db";

export interface Grant {
  scopes: readonly Scope[];
  /** Null: never. */
  expiresAt: Date | null;
}

export type KeyProblem =
  | { kind: "scope"; scope: Scope }
  /** The new key would outlast the key of the request. */
  | { kind: "outlasts"; until: Date }
  /** The key of the request may not learn that the other key exists. */
  | { kind: "unknown" };

type Asking = Pick<ApiKeyOwner, "organizationId" | "scopes" | "expiresAt">;
type Asked = Grant & { organizationId: number };

const isOperator = ({ scopes }: Asking) => scopes.includes("operator");
const lacking = (owner: Asking, scopes: readonly Scope[]) =>
  scopes.find((scope) => !owner.scopes.includes(scope));

/**
 * The holder of a secret can do what its key can. So a key gives only what it has: no other scope,
 * no other organization unless it is an operator's, and no later expiry.
 */
export function checkGrant(owner: Asking, asked: Asked): KeyProblem | undefined {
  if (asked.organizationId !== owner.organizationId && !isOperator(owner))
    return { kind: "scope", scope: "operator" };
  const scope = lacking(owner, asked.scopes);
  if (scope !== undefined) return { kind: "scope", scope };
  const until = owner.expiresAt;
  if (until === null) return undefined;
  const outlasts = asked.expiresAt === null || asked.expiresAt > until;
  return outlasts ? { kind: "outlasts", until } : undefined;
}

/** A rotation returns a secret with the rights of an existing key, so it follows the same rule. */
export function checkRotation(owner: Asking, key: Asked): KeyProblem | undefined {
  const isForeign = key.organizationId !== owner.organizationId && !isOperator(owner);
  return isForeign ? { kind: "unknown" } : checkGrant(owner, key);
}

/**
 * An operator may revoke any key; other keys only those of their organization whose scopes they
 * have.
 */
export function checkRevocation(owner: Asking, key: Asked): KeyProblem | undefined {
  if (isOperator(owner)) return undefined;
  if (key.organizationId !== owner.organizationId) return { kind: "unknown" };
  const scope = lacking(owner, key.scopes);
  return scope === undefined ? undefined : { kind: "scope", scope };
}
