/** Who may pass the edge, and where to: decided from the sandbox's row, for each request anew. */
import type { IncomingMessage } from "node:http";
import { DATA_PLANE_HEADERS } from "@torpor/contracts";
import { type Database, findSandboxByEdgeAddress, type SandboxView } from "@torpor/db";
import { type ApiKeys, bearerIn } from "../auth.ts";
import { ApiError, hostUnreachable, noSandboxToken, sandboxNotFound, wrongSandboxToken } from "../errors.ts";
import type { Tokens } from "../tokens.ts";

/** They say nothing that needs a token; SDKs and people probe them without. */
const OPEN_PATHS = new Set(["/health", "/info", "/ping"]);

export interface RouteDependencies {
  db: Database;
  tokens: Tokens;
  apiKeys: ApiKeys;
  hostKey: string;
}

/** Where a request goes, and with which headers added. */
export interface Target {
  url: URL;
  headers: Record<string, string>;
  /** Differs when the sandbox has moved on: another run, or another host. */
  run: string;
}

/** Finds the way to the sandbox that lives at `address`. Throws the 401, 404 or 409 of a request that may not pass. */
export async function routeTo(deps: RouteDependencies, address: string, incoming: IncomingMessage): Promise<Target> {
  const view = await findSandboxByEdgeAddress(deps.db, address);
  if (view === undefined) throw sandboxNotFound(address);
  await authorize(deps, view, incoming);
  const { sandbox, host } = view;
  if (sandbox.state !== "running") throw notRunning(view);
  if (host === undefined) throw hostUnreachable(undefined);
  return {
    url: new URL(host.dataPlaneUrl),
    headers: {
      [DATA_PLANE_HEADERS.sandboxId]: sandbox.id,
      [DATA_PLANE_HEADERS.epoch]: String(sandbox.epoch),
      [DATA_PLANE_HEADERS.hostKey]: deps.hostKey,
    },
    run: `${sandbox.id} ${sandbox.epoch} ${host.dataPlaneUrl}`,
  };
}

/** The sandbox's own token, or the API key of its owner, which the JS SDK falls back to. */
async function authorize(deps: RouteDependencies, view: SandboxView, incoming: IncomingMessage): Promise<void> {
  const isRead = incoming.method === "GET" || incoming.method === "HEAD";
  if (isRead && OPEN_PATHS.has((incoming.url ?? "").split("?", 1)[0] ?? "")) return;
  const { sandbox } = view;
  const token = bearerIn(incoming.headers);
  if (token !== undefined && (await deps.tokens.isFor(token, sandbox.id))) return;
  const apiKey = incoming.headers["x-api-key"];
  if (typeof apiKey === "string" && (await deps.apiKeys.find(apiKey))?.organizationId === sandbox.organizationId) return;
  throw token === undefined && apiKey === undefined ? noSandboxToken() : wrongSandboxToken();
}

/** An immediate 409: a 5xx would be sent again, a hang would last a minute, a 404 would read as "deleted" (hopx-contract.md 4). */
function notRunning({ sandbox, operation }: SandboxView): ApiError {
  const details = { current_state: sandbox.settledState, ...(operation === undefined ? {} : { operation }) };
  if (sandbox.state !== sandbox.settledState) {
    return new ApiError("CONFLICT", `The sandbox is ${sandbox.state} right now and does not answer until that has ended.`, { details });
  }
  switch (sandbox.state) {
    case "creating":
      return new ApiError("SANDBOX_CREATING", "The sandbox is still being created.", { details });
    case "stopped":
      return new ApiError("SANDBOX_STOPPED", "The sandbox is stopped. Start it first.", { details });
    case "paused":
      return new ApiError("CONFLICT", "The sandbox is paused. Resume it first.", { details });
    default:
      return new ApiError("CONFLICT", `The sandbox is in state ${sandbox.state} and cannot answer.`, { details });
  }
}
