/**
 * What an API key may do (docs/api.md, "Keys"). A scope implies no other: a key has those that it
 * lists.
 */
import { Type } from "typebox";

/** In the order in which they are shown. */
export const SCOPES = ["read", "lifecycle", "exec", "operator"] as const;
export type Scope = (typeof SCOPES)[number];
export const Scope = Type.Enum(SCOPES);

/** What a key could do for its own organization before there were scopes. */
export const TENANT_SCOPES: readonly Scope[] = ["read", "lifecycle", "exec"];
