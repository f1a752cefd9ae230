/** API keys, organizations and their quotas. */
import type {
  ApiKeyStatus,
  CreateKeyBody,
  KeyReply,
  KeyResource,
  NewKeyReply,
  OrganizationReply,
  OrganizationResource,
  QuotaLimitsBody,
  QuotaReply,
  RotatedKeyReply,
  RotateKeyBody,
} from "@torpor/contracts";
import type { Static } from "typebox";
import { itemsOf } from "./pages.ts";
import { path, type Send, type Terms } from "./transport.ts";

/** Filters of a list of keys. */
export interface KeyFilter {
  status?: ApiKeyStatus;
  organization?: string;
}

export function keyCalls(send: Send) {
  return {
    list: (filter: KeyFilter = {}, terms?: Terms) =>
      itemsOf<KeyResource>(send, "/v1/keys", { ...filter }, terms),
    /** The answer has the secret, which is shown this once. */
    create: (body: Static<typeof CreateKeyBody>, terms?: Terms) =>
      send<Static<typeof NewKeyReply>>("POST", "/v1/keys", { ...terms, body }),
    revoke: (id: string | number, terms?: Terms) =>
      send<Static<typeof KeyReply>>("DELETE", path`/v1/keys/${id}`, terms),
    rotate: (id: string | number, body: Static<typeof RotateKeyBody> = {}, terms?: Terms) =>
      send<Static<typeof RotatedKeyReply>>("POST", path`/v1/keys/${id}/rotate`, {
        ...terms,
        body,
      }),
  };
}

export function organizationCalls(send: Send) {
  return {
    list: (terms?: Terms) => itemsOf<OrganizationResource>(send, "/v1/organizations", {}, terms),
    create: (name: string, terms?: Terms) =>
      send<Static<typeof OrganizationReply>>("POST", "/v1/organizations", {
        ...terms,
        body: { name },
      }),
    quotas: (id: number, terms?: Terms) =>
      send<QuotaReply>("GET", path`/v1/organizations/${id}/quotas`, terms),
    /** All limits: one that is left out is none. */
    setQuotas: (id: number, limits: Static<typeof QuotaLimitsBody>, terms?: Terms) =>
      send<QuotaReply>("PUT", path`/v1/organizations/${id}/quotas`, { ...terms, body: limits }),
  };
}
