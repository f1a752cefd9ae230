/** `torpor key`: the API keys of a fleet. `create`, `ls`, `revoke`, `rotate`. */
import { parseArgs } from "node:util";
import type { Client } from "@torpor/client";
import type { KeyForm, KeyResource, Scope } from "@torpor/contracts";
import { openApi } from "../api.ts";
import { durationSeconds } from "../duration.ts";
import type { CommandContext } from "../main.ts";
import { table } from "../table.ts";

interface Request {
  api: Client;
  context: CommandContext;
}

const DEFAULT_SCOPES = "read,lifecycle,exec";
const HEADER = ["ID", "ORGANIZATION", "NAME", "KEY", "SCOPES", "STATUS", "EXPIRES", "LAST USED"];
const USAGE = [
  "key ls [--organization NAME] [--all]",
  "key create <name> [--scope read,lifecycle,exec,operator] [--organization NAME] " +
    "[--expires 30d|TIME] [--form e2b]",
  "key revoke <id>",
  "key rotate <id> [--overlap 1h]; each with --json",
].join(" | ");

const COMMANDS: Record<string, (request: Request) => Promise<number>> = {
  ls,
  create,
  revoke,
  rotate,
};

export async function key(context: CommandContext): Promise<number> {
  const [name = "ls", ...args] = context.args;
  const command = COMMANDS[name];
  if (command === undefined)
    throw new Error(`there is no command "key ${name}"; usage: torpor ${USAGE}`);
  return await command({ api: await openApi(context.root), context: { ...context, args } });
}

const json = { type: "boolean", default: false } as const;

async function ls({ api, context }: Request): Promise<number> {
  const { values } = parseArgs({
    args: context.args,
    options: { organization: { type: "string" }, all: { type: "boolean", default: false }, json },
  });
  const { organization } = values;
  const keys = await Array.fromAsync(
    api.keys.list({
      ...(values.all ? {} : { status: "active" }),
      ...(organization === undefined ? {} : { organization }),
    }),
  );
  if (values.json) context.write(JSON.stringify(keys, undefined, 2));
  else context.write(keys.length === 0 ? "There is no such key." : tableOf(keys));
  return 0;
}

async function create({ api, context }: Request): Promise<number> {
  const { values, positionals } = parseArgs({
    args: context.args,
    allowPositionals: true,
    options: {
      scope: { type: "string", multiple: true, default: [DEFAULT_SCOPES] },
      organization: { type: "string" },
      expires: { type: "string" },
      form: { type: "string" },
      json,
    },
  });
  const { organization, form, expires } = values;
  // The API checks scopes and form, and names those that there are.
  const made = await api.keys.create({
    name: only(positionals, "name"),
    scopes: scopesIn(values.scope) as Scope[],
    ...(organization === undefined ? {} : { organization }),
    ...(form === undefined ? {} : { form: form as KeyForm }),
    ...(expires === undefined ? {} : { expires_at: expiryIn(expires, Date.now()) }),
  });
  if (values.json) context.write(JSON.stringify(made, undefined, 2));
  else writeSecret(context, made);
  return 0;
}

async function revoke({ api, context }: Request): Promise<number> {
  const { values, positionals } = parseArgs({
    args: context.args,
    allowPositionals: true,
    options: { json },
  });
  const revoked = await api.keys.revoke(only(positionals, "id"));
  context.write(values.json ? JSON.stringify(revoked, undefined, 2) : tableOf([revoked]));
  return 0;
}

async function rotate({ api, context }: Request): Promise<number> {
  const { values, positionals } = parseArgs({
    args: context.args,
    allowPositionals: true,
    options: { overlap: { type: "string", default: "0s" }, json },
  });
  const rotated = await api.keys.rotate(only(positionals, "id"), {
    overlap_seconds: durationSeconds("--overlap", values.overlap),
  });
  if (values.json) {
    context.write(JSON.stringify(rotated, undefined, 2));
    return 0;
  }
  writeSecret(context, rotated);
  const { id, status, expires_at: end } = rotated.replaces;
  context.write(`Key ${id} ${status === "active" ? `stays good until ${end}` : `is ${status}`}.`);
  return 0;
}

function only(positionals: string[], what: string): string {
  const [given, ...others] = positionals;
  if (given === undefined) throw new Error(`which ${what}? usage: torpor ${USAGE}`);
  if (others.length > 0) throw new Error(`one ${what}, not ${positionals.join(" ")}`);
  return given;
}

/** Scopes, separated by commas or given one by one. */
export function scopesIn(given: readonly string[]): string[] {
  return [...new Set(given.flatMap((text) => text.split(",")).map((scope) => scope.trim()))];
}

/** Expiry of the key: after a duration, or at a time, which the API checks. */
export function expiryIn(text: string, nowMs: number): string {
  if (/^\d{4}-/.test(text)) return text;
  return new Date(nowMs + durationSeconds("--expires", text) * 1000).toISOString();
}

function writeSecret(
  { write }: CommandContext,
  { secret, ...rest }: KeyResource & { secret: string },
): void {
  write(tableOf([rest]));
  write("");
  write(secret);
  write("");
  write("This is the key. It is shown this once, and kept nowhere.");
}

const tableOf = (keys: KeyResource[]) => table(HEADER, keys.map(rowOf));

function rowOf(shown: KeyResource): string[] {
  const { id, organization, name, hint, scopes, status, replaced_by: replacedBy } = shown;
  const state = replacedBy === null ? status : `${status}, now ${replacedBy}`;
  const begin = hint === null ? "-" : `${hint}…`;
  const times = [shown.expires_at ?? "never", shown.last_used_at ?? "never"];
  return [String(id), organization, name, begin, scopes.join(","), state, ...times];
}
