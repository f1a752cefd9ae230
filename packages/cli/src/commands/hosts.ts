/**
 * `torpor hosts`: the fleet's hosts, for operators. `list`, `show`, `cordon`, `uncordon`, `drain`
 * with live progress, `abort`, `retire`, `discard`.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import type { DrainResource, HostResource } from "@torpor/contracts";
import { openApi } from "../api.ts";
import { interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { wholeNumber } from "../shape.ts";
import { table } from "../table.ts";
import { ADMISSION_COMMANDS, ADMISSION_USAGE, type HostsRequest } from "./host-admissions.ts";

/** As a gateway answers that may be older than this command. */
type Host = Omit<HostResource, NewFields> & Partial<Pick<HostResource, NewFields>>;
type NewFields = "finding_count" | "image_findings";

type Request = HostsRequest;

const LOOK_EVERY_MS = 1_000;
const HEADER = [
  "HOST",
  "STATE",
  "REGION",
  "VCPU",
  "MEMORY MIB",
  "SANDBOXES",
  "LAST BEAT",
  "FINDINGS",
];
const USAGE =
  "hosts [list] | hosts show|cordon|uncordon|abort|retire <host> | hosts discard <host> <sandbox> | hosts drain <host> [--max-parallel N] [--max-mib-per-second N] [--deadline TIME] [--no-wait] | " +
  ADMISSION_USAGE;

const COMMANDS: Record<string, (request: Request) => Promise<number>> = {
  list,
  show: async ({ api, context }) => {
    const host: Host = await api.hosts.get(hostIn(context));
    if ((host.finding_count ?? 0) <= host.findings.length) return show(context, host);
    return show(context, { ...host, findings: await Array.fromAsync(api.hosts.findings(host.id)) });
  },
  cordon: async ({ api, context }) => show(context, await api.hosts.cordon(hostIn(context))),
  uncordon: async ({ api, context }) => show(context, await api.hosts.uncordon(hostIn(context))),
  abort: async ({ api, context }) => show(context, await api.hosts.abortDrain(hostIn(context))),
  retire: async ({ api, context }) => show(context, await api.hosts.retire(hostIn(context))),
  discard: async ({ api, context }) =>
    show(context, await api.hosts.discard(hostIn(context), argument(context, 1, "sandbox"))),
  drain,
  ...ADMISSION_COMMANDS,
};

export async function hosts(context: CommandContext): Promise<number> {
  const [name = "list", ...args] = context.args;
  const command = COMMANDS[name];
  if (command === undefined)
    throw new Error(`there is no command "hosts ${name}"; usage: torpor ${USAGE}`);
  return await command({ api: await openApi(context.root), context: { ...context, args } });
}

function argument({ args }: CommandContext, at: number, what: string): string {
  const given = args.filter((arg) => !arg.startsWith("--"))[at];
  if (given === undefined) throw new Error(`which ${what}? usage: torpor ${USAGE}`);
  return given;
}

const hostIn = (context: CommandContext) => argument(context, 0, "host");

async function list({ api, context: { write } }: Request): Promise<number> {
  const data = await Array.fromAsync(api.hosts.list());
  if (data.length === 0) write("No host has registered yet.");
  else write(table(HEADER, data.map(rowOf)));
  return 0;
}

function rowOf({
  id,
  state,
  region,
  used,
  capacity,
  sandboxes,
  last_beat_at: heartbeat,
  ...host
}: Host): string[] {
  const count = Object.values(sandboxes).reduce((sum, one) => sum + one, 0);
  const found = (host.finding_count ?? host.findings.length) + (host.image_findings ?? []).length;
  const share = (one: "vcpu" | "memory_mb") => `${used[one]}/${capacity[one]}`;
  return [
    id,
    state,
    region,
    share("vcpu"),
    share("memory_mb"),
    String(count),
    heartbeat ?? "never",
    String(found),
  ];
}

function show({ write }: CommandContext, host: Host): number {
  write(table(HEADER, [rowOf(host)]));
  if (host.drain !== null) write(`drain: ${progressOf(host.drain)}`);
  for (const { sandbox_id: id, code, message } of host.drain?.failures ?? [])
    write(`  ${id}  ${code}  ${message}`);
  for (const { sandbox_id: id, kind, message } of host.findings)
    write(`finding: ${id}  ${kind}  ${message}`);
  for (const { template, message } of host.image_findings ?? [])
    write(`finding: template ${template}  image  ${message}`);
  return 0;
}

/**
 * Starts the drain and shows its progress until it ends. Interrupting this command does not end the
 * drain.
 */
async function drain({ api, context }: Request): Promise<number> {
  const { values, positionals } = parseArgs({
    args: context.args,
    allowPositionals: true,
    options: {
      "max-parallel": { type: "string", default: "1" },
      "max-mib-per-second": { type: "string" },
      deadline: { type: "string" },
      "no-wait": { type: "boolean", default: false },
    },
  });
  const id = hostIn({ ...context, args: positionals });
  const rate = values["max-mib-per-second"];
  let host: Host = await api.hosts.drain(id, {
    max_parallel: whole("--max-parallel", values["max-parallel"]),
    ...(rate === undefined ? {} : { max_mib_per_second: whole("--max-mib-per-second", rate) }),
    ...(values.deadline === undefined ? {} : { deadline: values.deadline }),
  });
  if (values["no-wait"]) return show(context, host);
  const signal = interrupted();
  let told = "";
  const causes = new Map<string, string>();
  while (
    host.drain !== null &&
    (host.drain.status === "active" || host.drain.status === "undoing")
  ) {
    const line = progressOf(host.drain);
    if (line !== told) context.write(`${host.id}: ${line}`);
    told = line;
    for (const { sandbox_id: id, code, message } of host.drain.failures) {
      if (causes.get(id) !== code) context.write(`  ${id}  ${code}  ${message}`);
      causes.set(id, code);
    }
    const isLeft = await sleep(LOOK_EVERY_MS, false, { signal }).catch(() => true);
    if (isLeft) {
      context.write(
        `the drain goes on; ./torpor hosts show ${host.id} shows it, ./torpor hosts abort ${host.id} ends it`,
      );
      return 130;
    }
    host = await api.hosts.get(id);
  }
  if (host.drain !== null)
    context.write(`${host.id}: ${progressOf(host.drain)}; the host is ${host.state}`);
  return host.drain?.status === "done" ? 0 : 1;
}

/** The API checks the range. */
function whole(name: string, text: string): number {
  const value = wholeNumber(text);
  if (Number.isNaN(value)) throw new Error(`${name} must be a whole number, not "${text}"`);
  return value;
}

function progressOf({ status, sandboxes, bytes, eta_seconds: eta }: DrainResource): string {
  const { total, left, moving, failed, moved, released, returned, gone } = sandboxes;
  const ends = Object.entries({ moved, released, returned, gone }).flatMap(([name, count]) =>
    count === 0 ? [] : [`${count} ${name}`],
  );
  const parts = [
    `${total - left} of ${total} sandboxes${ends.length === 0 ? "" : ` (${ends.join(", ")})`}`,
    `${moving} moving`,
  ];
  if (failed > 0) parts.push(`${failed} failed for now`);
  const rate =
    status === "active" && bytes.per_second !== null ? ` at ${mib(bytes.per_second)} MiB/s` : "";
  if (bytes.total > 0)
    parts.push(
      `${mib(bytes.done)} of ${bytes.estimated > 0 ? "about " : ""}${mib(bytes.total)} MiB copied${rate}`,
    );
  if (left > 0 && status === "active")
    parts.push(eta === null ? "time left not known yet" : `about ${eta} s left`);
  return `${status}: ${parts.join(", ")}`;
}

const mib = (bytes: number) => Math.round(bytes / 1024 ** 2);
