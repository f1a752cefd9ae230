/** `torpor hosts token|tokens|revoke-token|admissions|revoke`: which machines may be hosts. */
import { parseArgs } from "node:util";
import type { Client } from "@torpor/client";
import type { HostAdmissionResource, HostTokenResource } from "@torpor/contracts";
import { durationSeconds } from "../duration.ts";
import type { CommandContext } from "../main.ts";
import { table } from "../table.ts";

export interface HostsRequest {
  api: Client;
  context: CommandContext;
}

export const ADMISSION_USAGE = [
  "hosts token [--host <host>] [--address <host>] [--lifetime 1h]",
  "hosts tokens",
  "hosts revoke-token <id>",
  "hosts admissions",
  "hosts revoke <host>; each of these with --json",
].join(" | ");

const TOKENS = ["ID", "FOR", "AT", "STATUS", "EXPIRES", "USED BY"];
const ADMISSIONS = ["HOST", "AT", "ADMITTED", "BY", "CERTIFICATE UNTIL", "KEYS", "REVOKED"];
const json = { type: "boolean", default: false } as const;

export const ADMISSION_COMMANDS: Record<string, (request: HostsRequest) => Promise<number>> = {
  token,
  tokens,
  "revoke-token": async (request) =>
    await revoke(request, (id) => request.api.admissions.revokeToken(id), tokenTable),
  admissions,
  revoke: async (request) =>
    await revoke(request, (id) => request.api.admissions.revoke(id), admissionTable),
};

async function token({ api, context }: HostsRequest): Promise<number> {
  const { values } = parseArgs({
    args: context.args,
    options: {
      host: { type: "string" },
      address: { type: "string" },
      lifetime: { type: "string", default: "1h" },
      json,
    },
  });
  const { host, address, lifetime } = values;
  const made = await api.admissions.createToken({
    lifetime_seconds: durationSeconds("--lifetime", lifetime),
    ...(host === undefined ? {} : { host_id: host }),
    ...(address === undefined ? {} : { data_plane_host: address }),
  });
  if (values.json) context.write(JSON.stringify(made, undefined, 2));
  else {
    context.write(tokenTable([made]));
    context.write(`\n${made.secret}\n`);
    context.write(
      "This is the token. It is shown this once, kept nowhere, and lets one host join:",
    );
    context.write("torpor-node-agent join --url <this API> --token-file <a file with it>");
  }
  return 0;
}

async function tokens({ api, context }: HostsRequest): Promise<number> {
  const { values } = parseArgs({ args: context.args, options: { json } });
  const all = await Array.fromAsync(api.admissions.tokens());
  if (values.json) context.write(JSON.stringify({ tokens: all }, undefined, 2));
  else context.write(all.length === 0 ? "No token was made yet." : tokenTable(all));
  return 0;
}

async function admissions({ api, context }: HostsRequest): Promise<number> {
  const { values } = parseArgs({ args: context.args, options: { json } });
  const all = await Array.fromAsync(api.admissions.list());
  if (values.json) context.write(JSON.stringify({ admissions: all }, undefined, 2));
  else context.write(all.length === 0 ? "No host has joined yet." : admissionTable(all));
  return 0;
}

async function revoke<Row>(
  { context }: HostsRequest,
  end: (id: string) => Promise<Row>,
  show: (rows: Row[]) => string,
): Promise<number> {
  const { values, positionals } = parseArgs({
    args: context.args,
    allowPositionals: true,
    options: { json },
  });
  const [id, ...others] = positionals;
  if (id === undefined || others.length > 0)
    throw new Error(`which one? usage: torpor ${ADMISSION_USAGE}`);
  const revoked = await end(id);
  context.write(values.json ? JSON.stringify(revoked, undefined, 2) : show([revoked]));
  return 0;
}

const tokenTable = (rows: HostTokenResource[]) =>
  table(
    TOKENS,
    rows.map((row) => [
      String(row.id),
      row.host_id ?? "a new host",
      row.data_plane_host ?? "any address",
      row.status,
      row.expires_at,
      row.used_by ?? "-",
    ]),
  );

const admissionTable = (rows: HostAdmissionResource[]) =>
  table(
    ADMISSIONS,
    rows.map((row) => [
      row.host_id,
      row.data_plane_host ?? "any address",
      row.admitted_at,
      row.admitted_by,
      row.certificate_expires_at ?? "-",
      String(row.nats_public_keys.length),
      row.revoked_at ?? "-",
    ]),
  );
