/** `torpor up` and `torpor down`: the local fleet, running in the background. */
import { parseArgs } from "node:util";
import { Fleet } from "@torpor/fleet";
import { bringUpRest, fleetDir, fleetOptions, interrupted, startFleet } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { askedShape, fits, inOptions, shapeOfState } from "../shape.ts";
import { buildImage } from "./image.ts";

export async function up(context: CommandContext): Promise<number> {
  const options = fleetOptions(context);
  const running = await Fleet.find(options.dir);
  const signal = interrupted();
  if (running !== undefined) return await upAgain(context, running, signal);
  const prepareImages = async () => await buildImage(context, signal);
  printAccess(
    context,
    await startFleet(
      context,
      options.driver === "qemu" ? { ...options, prepareImages } : options,
      signal,
    ),
  );
  return 0;
}

/** The fleet exists, but some of its components may not run. */
async function upAgain(
  context: CommandContext,
  fleet: Fleet,
  signal: AbortSignal,
): Promise<number> {
  const shape = shapeOfState(fleet.state);
  if (!fits(askedShape(context.args), shape))
    throw new Error(
      `the fleet is up as ${inOptions(shape)}: end it first (./torpor down; its sandboxes are kept)`,
    );
  context.write("fleet: it is up already; ./torpor status shows it, ./torpor down ends it");
  await bringUpRest(context, fleet, signal);
  printAccess(context, fleet);
  return 0;
}

export async function down({ root, args, write }: CommandContext): Promise<number> {
  parseArgs({ args });
  const fleet = await Fleet.find(fleetDir(root));
  if (fleet === undefined) {
    write("fleet: it is down");
    return 0;
  }
  await fleet.down({ say: write });
  write("fleet: down; the files of its sandboxes are kept in .torpor/fleet");
  return 0;
}

export function printAccess({ write }: CommandContext, fleet: Fleet): void {
  const { url, apiKey } = fleet.state;
  write("");
  write(`URL      ${url}`);
  write(`API key  ${apiKey}   (also in .torpor/credentials.json)`);
  write("");
  write("Try next:");
  write(`  export HOPX_BASE_URL=${url} HOPX_API_KEY=${apiKey}`);
  write(
    `  curl -s -X POST -H "X-API-Key: $HOPX_API_KEY" -H 'content-type: application/json' -d '{"template_name":"code-interpreter"}' $HOPX_BASE_URL/v1/sandboxes`,
  );
  write(`  curl -s -H "X-API-Key: $HOPX_API_KEY" $HOPX_BASE_URL/v1/sandboxes`);
  write("  ./torpor status");
  write("  ./torpor down");
}
