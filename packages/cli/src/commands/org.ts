/** `torpor org`: the organizations of a fleet, for operators. `create`, `ls`, `quota`. */
import { parseArgs } from "node:util";
import type { Client } from "@torpor/client";
import type { OrganizationResource, QuotaName, QuotaReply } from "@torpor/contracts";
import { openApi } from "../api.ts";
import type { CommandContext } from "../main.ts";
import { table } from "../table.ts";

const HEADER = ["ID", "NAME", "CREATED"];
const QUOTA_HEADER = ["QUOTA", "USED", "LIMIT"];
const USAGE =
  "org ls | org create <name> | org quota <name> [<quota>=<limit or none>…]; each with --json";

export async function org(context: CommandContext): Promise<number> {
  const [name = "ls", ...args] = context.args;
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: { json: { type: "boolean", default: false } },
  });
  const api = await openApi(context.root);
  const write = <T>(shown: T, text: (shown: T) => string) =>
    context.write(values.json ? JSON.stringify(shown, undefined, 2) : text(shown));
  const [named, ...changes] = positionals;
  if (name === "ls" && named === undefined)
    write(await Array.fromAsync(api.organizations.list()), tableOf);
  else if (name === "create" && named !== undefined && changes.length === 0)
    write(await api.organizations.create(named), tableOf);
  else if (name === "quota" && named !== undefined)
    write(await quotasOf(api, named, changes), quotaTableOf);
  else throw new Error(`usage: torpor ${USAGE}`);
  return 0;
}

const tableOf = (shown: OrganizationResource | OrganizationResource[]) =>
  table(
    HEADER,
    [shown].flat().map(({ id, name, created_at: createdAt }) => [String(id), name, createdAt]),
  );

/** Returns the quotas, after applying `changes` if there are any. */
async function quotasOf(
  api: Client,
  name: string,
  changes: readonly string[],
): Promise<QuotaReply> {
  const all = await Array.fromAsync(api.organizations.list());
  const organization = all.find((one) => one.name === name);
  if (organization === undefined)
    throw new Error(`there is no organization "${name}": ./torpor org ls lists them`);
  const quotas = await api.organizations.quotas(organization.id);
  if (changes.length === 0) return quotas;
  const limits = changedLimits(quotas.limits, changes);
  return await api.organizations.setQuotas(organization.id, limits);
}

/** `vcpu=8` sets a limit, `vcpu=none` removes it. */
export function changedLimits<Limits extends Record<string, number | null>>(
  limits: Limits,
  changes: readonly string[],
): Limits {
  const entries = changes.map((change) => {
    const [name = "", text = "", ...rest] = change.split("=");
    if (!Object.hasOwn(limits, name))
      throw new Error(`there is no quota "${name}"; there are: ${Object.keys(limits).join(", ")}`);
    const isNumber = /^\d{1,10}$/.test(text);
    if ((!isNumber && text !== "none") || rest.length > 0)
      throw new Error(`${name} must be a whole number or none, as in ${name}=8`);
    return [name, isNumber ? Number(text) : null] as const;
  });
  return { ...limits, ...Object.fromEntries(entries) };
}

const quotaTableOf = ({ limits, used }: QuotaReply) =>
  table(
    QUOTA_HEADER,
    Object.entries(limits).map(([name, limit]) => [
      name,
      String(used[name as QuotaName]),
      String(limit ?? "none"),
    ]),
  );
