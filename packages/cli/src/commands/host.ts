/** `torpor host check`: what this machine lacks to be a host, from a checkout; on a host it is `torpor-node-agent check`. */
import { join } from "node:path";
import type { CommandContext } from "../main.ts";
import { run } from "@torpor/service";

export async function host({ root, args }: CommandContext): Promise<number> {
  if (args[0] !== "check") throw new Error(`there is no command "host ${args[0] ?? ""}"; there is: host check`);
  const { code } = await run([process.execPath, join(root, "apps/node-agent/src/command.ts"), "check"], { cwd: root, isShown: true });
  return code;
}
