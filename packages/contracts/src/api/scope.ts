/**
 * Scopes: what an API key may do (docs/api.md, "Keys"). No scope implies another: a key has the
 * scopes that it lists.
 */
import { Type } from "typebox";

/** In the order of display. */
export const SCOPES = ["read", "lifecycle", "exec", "operator"] as const;
export type Scope = (typeof SCOPES)[number];
export const Scope = Type.Enum(SCOPES);

/** Scopes that equal what a key could do for its own organization before scopes existed. */
export const TENANT_SCOPES: readonly Scope[] = ["read", "lifecycle", "exec"];
