/**
 * `torpor host check|join`, from a checkout: reports what this machine lacks to be a host, or makes
 * it one. On a host, the command is `torpor-node-agent check|join`.
 */
import { join } from "node:path";
import type { CommandContext } from "../main.ts";
import { run } from "@torpor/service";

export async function host({ root, args }: CommandContext): Promise<number> {
  const [name = "", ...rest] = args;
  if (name !== "check" && name !== "join")
    throw new Error(`there is no command "host ${name}"; there are: host check, host join`);
  const program = join(root, "apps/node-agent/src/command.ts");
  const { code } = await run([process.execPath, program, name, ...rest], {
    cwd: root,
    isShown: true,
  });
  return code;
}
