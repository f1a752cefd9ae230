/**
 * POST /v1/sandboxes: responds when the sandbox runs.
 *
 * CS1  A create without Idempotency-Key ends with its request: no SDK can name it again, so after a
 *      503 the SDK would create a second sandbox. A create that is left open is deleted
 *      (abandoned-create.ts).
 * CS2  Every refusal comes before anything is written.
 * CS3  A repeat gets the result of what it repeats, whatever has become of template and hosts
 *      since.
 */
import { randomInt } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import {
  CreateSandboxBody,
  findEnvProblem,
  newSandboxId,
  OperationResource,
  SandboxResource,
} from "@torpor/contracts";
import {
  acceptCreate,
  type AcceptedOperation,
  type ApiKeyOwner,
  type OperationRow,
  type Requester,
  type SandboxRow,
  forOrganization,
  sealEnvVars,
} from "@torpor/db";
import { type Abandonment, deleteAbandoned } from "../operations/abandoned-create.ts";
import type { Authenticator } from "../auth/auth.ts";
import { clientGone } from "../http/client-gone.ts";
import type { Dependencies } from "../deps.ts";
import {
  ApiError,
  apiErrorIn,
  invalidRequest,
  keyReused,
  operationInProgress,
  stopping,
} from "../http/errors.ts";
import { assertReached, assertStillThere, createdSandbox } from "../operations/outcome.ts";
import { checkPlaceable, placementIn, templateOf, wantedOf } from "../operations/placeable.ts";
import { quotaHeadersOf, quotaRefused } from "../auth/quotas.ts";
import { repeatOf } from "../operations/repeat.ts";
import { limitsOf, prefersAsync, requesterOf } from "../auth/requester.ts";
import { checkMetadata } from "../http/metadata.ts";
import { ERRORS, TermsHeaders } from "../http/schemas.ts";
import { needs } from "../auth/scopes.ts";
import { sandboxView } from "../views/sandbox.ts";
import { waitForOperation } from "../operations/wait-for-operation.ts";
import { respondAsync } from "./respond-async.ts";

const ADDRESS_TRIES = 20;
/** Room for the rest of a command: ids, a template's name, digests, addresses of hosts. */
const COMMAND_ROOM_BYTES = 16 * 1024;
/** Growth of the variables, which are sealed for the host, in Base64. */
const SEALED_SHARE = 4 / 3;
/** Longest wait of the response for the clean-up, which continues. */
const ABANDON_WAIT_MS = 1_000;

const SCHEMA = {
  tags: ["sandboxes"],
  headers: TermsHeaders,
  body: CreateSandboxBody,
  response: { 201: SandboxResource, 202: OperationResource, ...ERRORS },
};

export const createSandboxRoute: FastifyPluginAsyncTypebox<{
  deps: Dependencies;
  auth: Authenticator;
}> = async (app, { deps, auth }) => {
  app.post("/sandboxes", { schema: SCHEMA, config: needs("lifecycle") }, async (request, reply) => {
    const owner = auth.ownerOf(request);
    const wanted = storedFields(request.body);
    checkFitsMessage(wanted.env_vars ?? {}, deps.maxMessageBytes());
    const limits = limitsOf(request, deps.limits);
    const requester = requesterOf(request, owner, limits.createDeadlineMs, wanted);
    const accepted = (await repeatOf(deps, requester)) ?? (await accept(deps, wanted, requester));
    const { operation, messages, isNew } = accepted;
    await deps.publishCommitted(messages);
    const isAnonymous = requester.idempotencyKey === undefined;
    const abandon = async (why: Abandonment) => {
      if (isAnonymous)
        await deleteAbandoned(
          deps,
          { id: operation.sandboxId, organizationId: owner.organizationId },
          why,
        );
    };
    const gone = clientGone(request, reply);
    // The create has ended without a sandbox: nothing is left to delete.
    let hasFailed = false;
    try {
      if (!isNew) await assertStillThere(deps, operation);
      reply.headers(await quotaHeadersOf(deps, owner.organizationId, accepted));
      if (prefersAsync(request)) return respondAsync(reply, operation, request.id);
      gone.addEventListener("abort", () => void abandon("client left"), { once: true });
      const ended = await waitForEnd({ ...deps, limits }, accepted, gone, isAnonymous);
      hasFailed = ended.status !== "succeeded";
      await assertReached(deps, ended);
      const view = await createdSandbox(deps, operation);
      reply.status(201);
      return {
        ...sandboxView(view, deps.edge),
        ...(await tokenFor(deps, owner, view.sandbox)),
        request_id: request.id,
      };
    } catch (error) {
      if (!hasFailed)
        await Promise.race([
          abandon("no answer"),
          sleep(ABANDON_WAIT_MS, undefined, { ref: false }),
        ]);
      throw error;
    }
  });
};

/** No token for a key that may not use what it creates: the holder of the token could. */
async function tokenFor({ tokens }: Dependencies, owner: ApiKeyOwner, sandbox: SandboxRow) {
  if (!owner.scopes.includes("exec")) return {};
  const { token, expiresAt } = await tokens.issue(sandbox, owner);
  return { auth_token: token, token_expires_at: expiresAt.toISOString() };
}

/** Throws the error for the response when the create does not end in time. */
async function waitForEnd(
  deps: Dependencies,
  accepted: AcceptedOperation,
  gone: AbortSignal,
  isAnonymous: boolean,
): Promise<OperationRow> {
  const { operation } = accepted;
  const waited = await waitForOperation(deps, accepted, gone);
  if (waited.kind === "ended") return waited.operation;
  if (waited.kind === "stopping") throw stopping();
  if (!isAnonymous) throw operationInProgress(operation.id, "create", deps.limits.waitMs);
  throw new ApiError(
    "OPERATION_TIMEOUT",
    "The sandbox did not come up in time. It is being deleted; create another one.",
    {
      details: { operation_id: operation.id, sandbox_id: operation.sandboxId },
      headers: { "retry-after": "5" },
    },
  );
}

/** The fields that count, in one form. Throws the 400 for what the schema cannot check. */
export function storedFields(
  body: CreateSandboxBody,
): CreateSandboxBody & { template_id?: string } {
  const {
    template_id,
    template_name,
    region,
    timeout_seconds,
    internet_access,
    env_vars,
    metadata,
  } = body;
  const { auto_pause, auto_resume, preview_access, preview_host, on_host_loss } = body;
  const policies = {
    auto_pause: auto_pause ?? undefined,
    auto_resume,
    preview_access,
    preview_host,
    on_host_loss,
  };
  const placement = placementIn(body);
  const known = {
    template_name,
    region,
    timeout_seconds,
    internet_access,
    env_vars,
    metadata,
    placement,
    ...policies,
  };
  checkMetadata(metadata ?? {}, (value) => typeof value === "string");
  checkVariables(env_vars ?? {});
  const defined = Object.fromEntries(
    Object.entries(known).filter(([, value]) => value !== undefined),
  );
  return { ...defined, ...(template_id === undefined ? {} : { template_id: String(template_id) }) };
}

function checkVariables(variables: Record<string, string>): void {
  const problem = findEnvProblem(variables);
  if (problem === undefined) return;
  const field = problem.name === undefined ? "env_vars" : `env_vars.${problem.name}`;
  throw invalidRequest([{ field, message: problem.message }]);
}

/**
 * Throws the 400 for variables that do not fit into the message with the create's command: a
 * message that no server takes would never arrive. Nothing else in the command is of unlimited
 * length.
 */
function checkFitsMessage(
  variables: Record<string, string>,
  maxMessageBytes: number | undefined,
): void {
  if (maxMessageBytes === undefined) return;
  const max = Math.max(0, Math.floor((maxMessageBytes - COMMAND_ROOM_BYTES) / SEALED_SHARE));
  const bytes = Buffer.byteLength(JSON.stringify(variables));
  if (bytes <= max) return;
  const message = `must be at most ${max} bytes as JSON text, which is what the message servers of this fleet take, and is ${bytes}`;
  throw invalidRequest([{ field: "env_vars", message }]);
}

async function accept(
  deps: Dependencies,
  body: CreateSandboxBody,
  requester: Requester,
): Promise<AcceptedOperation> {
  const template = await templateOf(deps, body);
  await checkPlaceable(deps, wantedOf(deps, body, template));
  const { id: templateId, name: templateName } = template;
  const sandbox = {
    templateId,
    templateName,
    ...wantedOf(deps, body, template),
    internetAccess: body.internet_access ?? true,
    metadata: body.metadata ?? {},
    timeoutSeconds: body.timeout_seconds ?? null,
    autoPauseIdleSeconds: body.auto_pause?.idle_seconds ?? null,
    autoResume: body.auto_resume ?? false,
    previewAccess: body.preview_access ?? ("public" as const),
    previewHost: body.preview_host ?? ("original" as const),
  };
  const db = forOrganization(deps.db, requester.organizationId);
  for (let attempt = 0; attempt < ADDRESS_TRIES; attempt += 1) {
    const id = newSandboxId();
    const environment = await sealEnvVars(deps.envelope, id, body.env_vars ?? {});
    const accepted = await acceptCreate(
      db,
      { ...sandbox, ...environment, id, edgeAddress: randomEdgeAddress() },
      requester,
    ).catch((error: unknown) => {
      // The connection may have broken after the commit: then the sandbox exists, and the client
      // will send another create. A create without a slot at the database (a 429) has not begun.
      if (requester.idempotencyKey === undefined && apiErrorIn(error) === undefined)
        void deleteAbandoned(deps, { id, organizationId: requester.organizationId }, "no answer");
      throw error;
    });
    if (accepted.kind === "key_reused") throw keyReused();
    if (accepted.kind === "quota_exceeded") throw quotaRefused(accepted);
    if (accepted.kind === "accepted") return accepted;
  }
  throw new Error(`no free edge address was found in ${ADDRESS_TRIES} tries`);
}

/** An address in 127.64.0.0/10: every address of 127/8 is local on Linux without any set-up. */
function randomEdgeAddress(): string {
  return `127.${randomInt(64, 128)}.${randomInt(256)}.${randomInt(1, 255)}`;
}
