/**
 * Requests the admission of this host from the fleet's API, and waits until NATS accepts the host.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { connectBus, publicKeyOf } from "@torpor/bus";
import { decoder, HostId } from "@torpor/contracts";
import { Type } from "typebox";
import { type Given, IdentityFiles } from "./identity-files.ts";

export interface JoinOptions {
  /** URL of the fleet's API. */
  url: URL;
  token: string;
  hostId: string;
  dir: string;
  /** Time that the NATS servers may take to learn of this host. */
  waitMs: number;
  say: (line: string) => void;
}

const ANSWER_LIMIT_MS = 30_000;
const CONNECT_LIMIT_MS = 10_000;
const RETRY_MS = 2_000;
const MAX_ANSWER_BYTES = 256 * 1024;

const Text = Type.String({ maxLength: 65_536 });
const decodeIdentity = decoder(
  Type.Object({
    host_id: HostId,
    nats_url: Type.String({ pattern: "^(nats|tls)://[A-Za-z0-9.:,/\\[\\]-]+$", maxLength: 4_096 }),
    certificate: Type.Union([Text, Type.Null()]),
    authorities: Type.Union([Text, Type.Null()]),
  }),
);

/** Rejects with a message that names the remedy. The identity in use is then unchanged. */
export async function joinFleet(options: JoinOptions): Promise<void> {
  const { hostId, dir, say, waitMs } = options;
  const files = new IdentityFiles(dir);
  const keys = await files.keys();
  say(`asking ${options.url.origin} to let ${hostId} in`);
  const given = await ask(options, keys);
  const { tlsFiles } = await files.keep(given);
  if (given.natsUrl.startsWith("tls://") && tlsFiles === undefined) {
    say(
      "this fleet's certificates come from elsewhere: set TLS_CERT_FILE, TLS_KEY_FILE and TLS_CA_FILE in node-agent.env",
    );
  } else {
    say(
      `let in; waiting for the NATS servers (${given.natsUrl}) to learn of ${publicKeyOf(keys.seed)}, at most ${waitMs / 1000} s`,
    );
    await untilLetIn(
      {
        url: given.natsUrl,
        name: `join ${hostId}`,
        hostId: given.hostId,
        seed: keys.seed,
        tlsFiles,
      },
      waitMs,
    );
  }
  await files.take();
  say(`joined; the settings are in ${files.settingsFile}`);
}

async function ask(
  { url, token, hostId }: JoinOptions,
  keys: { natsPublicKey: string; requestPem: string },
): Promise<Given> {
  const body = {
    token,
    host_id: hostId,
    certificate_request: keys.requestPem,
    nats_public_key: keys.natsPublicKey,
  };
  const response = await fetch(new URL("/v1/host-admissions", url), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(ANSWER_LIMIT_MS),
  }).catch((cause: unknown) => {
    throw new Error(`the API at ${url.origin} cannot be reached`, { cause });
  });
  const bytes = new Uint8Array(await response.arrayBuffer()).subarray(0, MAX_ANSWER_BYTES);
  if (!response.ok)
    throw new Error(
      `${url.origin} did not let ${hostId} in: ${messageIn(bytes) ?? `it answered ${response.status}`}`,
    );
  const { host_id, nats_url, certificate, authorities } = decodeIdentity(
    "the answer of the API",
    bytes,
  );
  if (host_id !== hostId) throw new Error(`the API let ${host_id} in, not ${hostId}`);
  return { hostId: host_id, natsUrl: nats_url, certificate, authorities };
}

/** Polls: the servers' configuration is written after the admission (infra/nats). */
async function untilLetIn(access: Parameters<typeof connectBus>[0], waitMs: number): Promise<void> {
  const deadline = performance.now() + waitMs;
  let problem = "they did not answer";
  while (performance.now() < deadline) {
    // A refused connection rejects; without a server the attempt never ends.
    const connecting = connectBus(access);
    const connected = await Promise.race([
      connecting.catch((error: unknown) => void (problem = causeOf(error))),
      sleep(Math.min(CONNECT_LIMIT_MS, deadline - performance.now()), undefined, { ref: false }),
    ]);
    if (connected !== undefined) return await connected.close();
    void connecting.then((late) => late.close()).catch(() => {});
    await sleep(RETRY_MS);
  }
  throw new Error(
    `the NATS servers have not let this host in after ${waitMs / 1000} s (${problem}): write their configuration again with its admission (docs/operate/hosts.md), and run this again with the same token`,
  );
}

function messageIn(bytes: Uint8Array): string | undefined {
  try {
    const { message } = JSON.parse(new TextDecoder().decode(bytes)) as { message?: unknown };
    return typeof message === "string" ? message : undefined;
  } catch {
    return undefined;
  }
}

function causeOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error ? `${error.message}: ${error.cause.message}` : error.message;
}
