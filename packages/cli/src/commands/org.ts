/** `torpor org`: the organizations of a fleet, for operators. `create`, `ls`, `quota`. */
import { parseArgs } from "node:util";
import { type Api, openApi } from "../api.ts";
import type { CommandContext } from "../main.ts";
import { readAll } from "../pages.ts";
import { table } from "../table.ts";

interface Organization {
  id: number;
  name: string;
  created_at: string;
}

/** Limit by quota; null: no limit. */
type Limits = Record<string, number | null>;
interface Quotas {
  limits: Limits;
  used: Record<string, number>;
}

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
  if (name === "ls" && named === undefined) write(await listOrganizations(api), tableOf);
  else if (name === "create" && named !== undefined && changes.length === 0)
    write(await api.call<Organization>("POST", "/v1/organizations", { name: named }), tableOf);
  else if (name === "quota" && named !== undefined)
    write(await quotasOf(api, named, changes), quotaTableOf);
  else throw new Error(`usage: torpor ${USAGE}`);
  return 0;
}

const listOrganizations = async (api: Api) =>
  await readAll<Organization>(api, "/v1/organizations", new URLSearchParams());

const tableOf = (shown: Organization | Organization[]) =>
  table(
    HEADER,
    [shown].flat().map(({ id, name, created_at: createdAt }) => [String(id), name, createdAt]),
  );

/** Returns the quotas, after applying `changes` if there are any. */
async function quotasOf(api: Api, name: string, changes: readonly string[]): Promise<Quotas> {
  const all = await listOrganizations(api);
  const organization = all.find((one) => one.name === name);
  if (organization === undefined)
    throw new Error(`there is no organization "${name}": ./torpor org ls lists them`);
  const path = `/v1/organizations/${organization.id}/quotas`;
  const quotas = await api.call<Quotas>("GET", path);
  if (changes.length === 0) return quotas;
  return await api.call<Quotas>("PUT", path, changedLimits(quotas.limits, changes));
}

/** `vcpu=8` sets a limit, `vcpu=none` removes it. */
export function changedLimits(limits: Limits, changes: readonly string[]): Limits {
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

const quotaTableOf = ({ limits, used }: Quotas) =>
  table(
    QUOTA_HEADER,
    Object.entries(limits).map(([name, limit]) => [
      name,
      String(used[name]),
      String(limit ?? "none"),
    ]),
  );
