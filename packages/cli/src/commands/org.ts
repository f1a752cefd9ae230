/** `torpor org`: the organizations of a fleet, for operators. `create`, `ls`. */
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

const HEADER = ["ID", "NAME", "CREATED"];
const USAGE = "org ls | org create <name>; each with --json";

export async function org(context: CommandContext): Promise<number> {
  const [name = "ls", ...args] = context.args;
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: { json: { type: "boolean", default: false } },
  });
  const api = await openApi(context.root);
  const write = (shown: Organization | Organization[]) => {
    const rows = [shown].flat().map(({ id, ...row }) => [String(id), row.name, row.created_at]);
    context.write(values.json ? JSON.stringify(shown, undefined, 2) : table(HEADER, rows));
  };
  if (name === "ls" && positionals.length === 0) write(await listOrganizations(api));
  else if (name === "create" && positionals.length === 1)
    write(await api.call<Organization>("POST", "/v1/organizations", { name: positionals[0] }));
  else throw new Error(`usage: torpor ${USAGE}`);
  return 0;
}

const listOrganizations = async (api: Api) =>
  await readAll<Organization>(api, "/v1/organizations", new URLSearchParams());
