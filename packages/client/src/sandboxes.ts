/** Sandboxes, their operations and their history. */
import type {
  CreateSandboxBody,
  DryRunBody,
  EventResource,
  ListedState,
  OperationResource,
  PatchSandboxBody,
  PlacementResource,
  PreviewLink,
  PreviewLinkBody,
  RevokedTokensReply,
  SandboxList,
  SandboxResource,
  TimeoutReply,
  TokenReply,
  TransitionReply,
} from "@torpor/contracts";
import type { Static } from "typebox";
import { itemsOf } from "./pages.ts";
import { path, type Send, type Terms } from "./transport.ts";

export type TransitionVerb = "pause" | "resume" | "stop" | "start";
export type ListedSandbox = Static<typeof SandboxList>["data"][number];
type Transitioned = Static<typeof TransitionReply>;

export interface PauseTerms extends Terms {
  /** Resolves only once the snapshot is in the store, and survives the loss of its host. */
  waitFor?: "replicated";
}

/** Filters of a list of sandboxes; each that is given has to hold. */
export interface SandboxFilter {
  status?: ListedState;
  region?: string;
  /** Each name with its value. */
  metadata?: Record<string, string>;
  /** Of one page; 100. */
  limit?: number;
}

export function sandboxCalls(send: Send) {
  const move = (verb: Exclude<TransitionVerb, "pause">) => (id: string, terms?: Terms) =>
    send<Transitioned>("POST", path`/v1/sandboxes/${id}/${verb}`, terms);
  return {
    /** Resolves once the sandbox runs. */
    create: (body: CreateSandboxBody, terms?: Terms) =>
      send<SandboxResource>("POST", "/v1/sandboxes", { ...terms, body }),
    /** Resolves with the operation at once; its `sandbox_id` is the new sandbox. */
    beginCreate: (body: CreateSandboxBody, terms?: Terms) =>
      send<OperationResource>("POST", "/v1/sandboxes", { ...terms, body, prefer: ASYNC }),
    get: (id: string, terms?: Terms) =>
      send<SandboxResource>("GET", path`/v1/sandboxes/${id}`, terms),
    list: ({ metadata, ...filter }: SandboxFilter = {}, terms?: Terms) => {
      const query = { ...filter, ...metadataQuery(metadata) };
      return itemsOf<ListedSandbox>(send, "/v1/sandboxes", query, terms);
    },
    patch: (id: string, body: PatchSandboxBody, terms?: Terms) =>
      send<SandboxResource>("PATCH", path`/v1/sandboxes/${id}`, { ...terms, body }),
    pause: (id: string, { waitFor, ...terms }: PauseTerms = {}) =>
      send<Transitioned>("POST", path`/v1/sandboxes/${id}/pause`, {
        ...terms,
        query: { wait_for: waitFor },
      }),
    resume: move("resume"),
    stop: move("stop"),
    start: move("start"),
    delete: (id: string, terms?: Terms) =>
      send<Transitioned>("DELETE", path`/v1/sandboxes/${id}`, terms),
    /** Resolves with the operation at once. */
    begin: (id: string, verb: TransitionVerb | "delete", terms?: Terms) =>
      verb === "delete"
        ? send<OperationResource>("DELETE", path`/v1/sandboxes/${id}`, { ...terms, prefer: ASYNC })
        : send<OperationResource>("POST", path`/v1/sandboxes/${id}/${verb}`, {
            ...terms,
            prefer: ASYNC,
          }),
    /** Oldest first. */
    events: (id: string, terms?: Terms) =>
      itemsOf<EventResource>(send, path`/v1/sandboxes/${id}/events`, {}, terms),
    setTimeout: (id: string, seconds: number, terms?: Terms) =>
      send<Static<typeof TimeoutReply>>("PUT", path`/v1/sandboxes/${id}/timeout`, {
        ...terms,
        body: { timeout_seconds: seconds },
      }),
    /** One more token; the others stay good. */
    refreshToken: (id: string, terms?: Terms) =>
      send<Static<typeof TokenReply>>("POST", path`/v1/sandboxes/${id}/token/refresh`, terms),
    /** Ends all tokens of the sandbox. */
    revokeTokens: (id: string, terms?: Terms) =>
      send<Static<typeof RevokedTokensReply>>(
        "POST",
        path`/v1/sandboxes/${id}/token/revoke`,
        terms,
      ),
    previewLink: (id: string, body: PreviewLinkBody, terms?: Terms) =>
      send<Static<typeof PreviewLink>>("POST", path`/v1/sandboxes/${id}/preview-links`, {
        ...terms,
        body,
      }),
    /** The host that would be chosen now; nothing is reserved. */
    dryRun: (body: Static<typeof DryRunBody>, terms?: Terms) =>
      send<Static<typeof PlacementResource>>("POST", "/v1/placements/dry-run", { ...terms, body }),
  };
}

const ASYNC = "respond-async";

const metadataQuery = (metadata: Record<string, string> = {}) =>
  Object.fromEntries(Object.entries(metadata).map(([name, value]) => [`metadata[${name}]`, value]));
