/**
 * A typed client of Torpor's API: one function for each route, typed by the schemas that the
 * gateway validates with. Each resolves with the body of a 2xx, and rejects with `ApiRefusal` or
 * `NoAnswer`; lists are async iterators over all pages. Nothing is retried.
 */
import type { HealthReply, OperationResource } from "@torpor/contracts";
import { setTimeout as sleep } from "node:timers/promises";
import type { Static } from "typebox";
import { admissionCalls, auditCalls, hostCalls, templateCalls } from "./operator.ts";
import { keyCalls, organizationCalls } from "./organizations.ts";
import { sandboxCalls } from "./sandboxes.ts";
import { type ClientOptions, createTransport, path, type Send, type Terms } from "./transport.ts";

export type Client = ReturnType<typeof createClient>;

export function createClient(options: ClientOptions) {
  const send = createTransport(options);
  return {
    /** For a route that has no function here. */
    send,
    sandboxes: sandboxCalls(send),
    operations: operationCalls(send),
    templates: templateCalls(send),
    hosts: hostCalls(send),
    admissions: admissionCalls(send),
    keys: keyCalls(send),
    organizations: organizationCalls(send),
    audit: auditCalls(send),
    health: (terms?: Terms) => send<Static<typeof HealthReply>>("GET", "/health", terms),
  };
}

const POLL_EVERY_MS = 500;

function operationCalls(send: Send) {
  const get = (id: string, terms?: Terms) =>
    send<OperationResource>("GET", path`/v1/operations/${id}`, terms);
  return {
    get,
    /**
     * Resolves with the operation once it has ended, whatever its status is then. Polls until the
     * signal aborts; an operation ends by its own deadline in any case.
     */
    wait: async (id: string, terms: Terms = {}): Promise<OperationResource> => {
      for (;;) {
        const operation = await get(id, terms);
        if (operation.ended_at !== null) return operation;
        const { signal } = terms;
        await sleep(POLL_EVERY_MS, undefined, signal === undefined ? {} : { signal });
      }
    },
  };
}
