/**
 * `torpor restart <component…>` and `torpor restart --rolling`: ends programs of the local fleet
 * and starts them again, in order, one at a time. Sandboxes continue to run.
 */
import { parseArgs } from "node:util";
import { Fleet } from "@torpor/fleet";
import { prepareLocalPrograms } from "@torpor/programs";
import { fleetDir, interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";

export async function restart({ root, args, write }: CommandContext): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: { rolling: { type: "boolean", default: false } },
  });
  if (values.rolling === positionals.length > 0)
    throw new Error(
      "give the names of components (./torpor status shows them), or --rolling for all but Postgres",
    );
  const fleet = await Fleet.find(fleetDir(root));
  if (fleet === undefined) throw new Error("the fleet is down: ./torpor up starts it");
  const signal = interrupted();
  const say = (line: string) => write(`fleet: ${line}`);
  // Resolves all names first: a wrong one restarts nothing.
  const components = positionals.map((name) => fleet.component(name));
  await prepareLocalPrograms();
  for (const { name } of components) {
    say(`restarting ${name}`);
    await fleet.restart(name, signal);
  }
  if (values.rolling) await fleet.rollingRestart(say, signal);
  say("all of it is well");
  return 0;
}
