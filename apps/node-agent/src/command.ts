/**
 * The program that is installed on hosts, `torpor-node-agent [run | prepare | shut-down | collect |
 * check | join]`, bundled to one file by build.ts. Without an argument the program runs the agent.
 * Each part is loaded only when it is named: a check has to work where the agent's configuration is
 * invalid.
 */
import { flushCompileCache } from "node:module";

const PARTS: Record<string, () => Promise<unknown>> = {
  run: () => import("./main.ts"),
  prepare: () => import("./prepare.ts"),
  "shut-down": () => import("./shut-down.ts"),
  collect: () => import("./collect.ts"),
  check: () => import("./check/main.ts"),
  join: () => import("./join/main.ts"),
};

const [name = "run"] = process.argv.slice(2);
const load = PARTS[name];
if (load === undefined) {
  process.stderr.write(
    `torpor-node-agent: there is no "${name}"; there are: ${Object.keys(PARTS).join(", ")}\n`,
  );
  process.exit(2);
}
await load();
// Written now, because the process may be killed before a regular exit.
flushCompileCache();
