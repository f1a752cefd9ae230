/** What an operator's key may call: hosts, who may be one, templates, and the audit log. */
import type {
  AuditEntryResource,
  CreateHostTokenBody,
  CreateTemplateBody,
  DrainBody,
  FindingResource,
  HostAdmissionReply,
  HostAdmissionResource,
  HostEventList,
  HostReply,
  HostResource,
  HostTokenReply,
  HostTokenResource,
  NewHostTokenReply,
  TemplateDeleted,
  TemplateResource,
  UpdateTemplateBody,
} from "@torpor/contracts";
import type { Static } from "typebox";
import { itemsOf, type Page } from "./pages.ts";
import { path, type Send, type Terms } from "./transport.ts";

type HostAnswer = Static<typeof HostReply>;

export function hostCalls(send: Send) {
  const act = (verb: string) => (id: string, terms?: Terms) =>
    send<HostAnswer>("POST", `${path`/v1/hosts/${id}`}/${verb}`, { ...terms, body: {} });
  return {
    list: (terms?: Terms) => itemsOf<HostResource>(send, "/v1/hosts", {}, terms),
    get: (id: string, terms?: Terms) => send<HostAnswer>("GET", path`/v1/hosts/${id}`, terms),
    cordon: act("cordon"),
    uncordon: act("uncordon"),
    retire: act("retire"),
    drain: (id: string, body: Static<typeof DrainBody>, terms?: Terms) =>
      send<HostAnswer>("POST", path`/v1/hosts/${id}/drain`, { ...terms, body }),
    abortDrain: act("drain/abort"),
    findings: (id: string, terms?: Terms) =>
      itemsOf<Static<typeof FindingResource>>(send, path`/v1/hosts/${id}/findings`, {}, terms),
    discard: (id: string, sandboxId: string, terms?: Terms) =>
      send<HostAnswer>("POST", path`/v1/hosts/${id}/findings/${sandboxId}/discard`, {
        ...terms,
        body: {},
      }),
    /** The newest, or those after the event `after`. */
    events: (id: string, query: { after?: number; limit?: number } = {}, terms?: Terms) =>
      send<Static<typeof HostEventList>>("GET", path`/v1/hosts/${id}/events`, { ...terms, query }),
  };
}

export function admissionCalls(send: Send) {
  return {
    createToken: (body: Static<typeof CreateHostTokenBody>, terms?: Terms) =>
      send<Static<typeof NewHostTokenReply>>("POST", "/v1/host-tokens", { ...terms, body }),
    tokens: (terms?: Terms) => itemsOf<HostTokenResource>(send, "/v1/host-tokens", {}, terms),
    revokeToken: (id: string | number, terms?: Terms) =>
      send<Static<typeof HostTokenReply>>("DELETE", path`/v1/host-tokens/${id}`, terms),
    list: (terms?: Terms) => itemsOf<HostAdmissionResource>(send, "/v1/host-admissions", {}, terms),
    /** The host has no rights from then on. */
    revoke: (hostId: string, terms?: Terms) =>
      send<Static<typeof HostAdmissionReply>>("DELETE", path`/v1/host-admissions/${hostId}`, terms),
  };
}

export function templateCalls(send: Send) {
  return {
    list: async (terms?: Terms) =>
      (await send<Page<TemplateResource>>("GET", "/v1/templates", terms)).data,
    get: (name: string, terms?: Terms) =>
      send<TemplateResource>("GET", path`/v1/templates/${name}`, terms),
    create: (body: CreateTemplateBody, terms?: Terms) =>
      send<TemplateResource>("POST", "/v1/templates", { ...terms, body }),
    update: (name: string, body: UpdateTemplateBody, terms?: Terms) =>
      send<TemplateResource>("PATCH", path`/v1/templates/${name}`, { ...terms, body }),
    delete: (name: string, terms?: Terms) =>
      send<Static<typeof TemplateDeleted>>("DELETE", path`/v1/templates/${name}`, terms),
  };
}

export const auditCalls = (send: Send) => ({
  /** Newest first; `requested_by` is `api-key:<id>`. */
  list: (filter: { requested_by?: string; organization_id?: number } = {}, terms?: Terms) =>
    itemsOf<AuditEntryResource>(send, "/v1/audit", { ...filter }, terms),
});
