/**
 * `torpor-node-agent join`: this machine becomes a host of a fleet, or gets new keys. Safe to run
 * again.
 */
import { messageOf } from "@torpor/service";
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { parseArgs } from "node:util";
import { hostIdFrom } from "../config.ts";
import { IDENTITY_DIR } from "./identity-files.ts";
import { joinFleet, type JoinOptions } from "./join-fleet.ts";

const USAGE = `usage: torpor-node-agent join --url <the fleet's API> --token-file <file> [options]

  --url <url>           https://…; http:// with --allow-http, as it shows the token to whoever listens
  --token-file <file>   the token that an operator has made (./torpor hosts token); - reads it from standard input
  --host-id <id>        default: HOST_ID, else this machine's name up to its first dot
  --dir <dir>           where keys and certificate go; default: ${IDENTITY_DIR}
  --wait <seconds>      for the NATS servers to learn of this host; default: 120
`;
const MAX_WAIT_S = 3_600;

try {
  const options = optionsIn(process.argv.slice(3));
  await joinFleet(options);
  // Failed attempts to connect never end, and would keep this process alive.
  process.exit(0);
} catch (error) {
  process.stderr.write(`join: ${messageOf(error)}\n`);
  process.exit(1);
}

function optionsIn(args: string[]): JoinOptions {
  const { values } = parseArgs({
    args,
    options: {
      url: { type: "string" },
      "token-file": { type: "string" },
      "host-id": { type: "string", default: process.env["HOST_ID"] || hostIdFrom(hostname()) },
      dir: { type: "string", default: IDENTITY_DIR },
      wait: { type: "string", default: "120" },
      "allow-http": { type: "boolean", default: false },
    },
  });
  const { url: given, "token-file": tokenFile } = values;
  if (given === undefined || tokenFile === undefined)
    throw new Error(`--url and --token-file are needed\n\n${USAGE}`);
  const url = URL.parse(given);
  if (url === null || !/^https?:$/.test(url.protocol))
    throw new Error(`--url is "${given}", which is no address of an API`);
  const isLocal = ["127.0.0.1", "[::1]", "localhost"].includes(url.hostname);
  if (url.protocol === "http:" && !isLocal && !values["allow-http"])
    throw new Error(
      "--url is http://, so the token could be read on its way: use https://, or add --allow-http in a private network",
    );
  const waitS = Number(values.wait);
  if (!Number.isInteger(waitS) || waitS < 1 || waitS > MAX_WAIT_S)
    throw new Error(`--wait must be 1 to ${MAX_WAIT_S} seconds, not "${values.wait}"`);
  const token = readFileSync(tokenFile === "-" ? 0 : tokenFile, "utf8").trim();
  if (token === "") throw new Error(`there is no token in ${tokenFile}`);
  return {
    url,
    token,
    hostId: values["host-id"],
    dir: values.dir,
    waitMs: waitS * 1000,
    say: (line) => process.stdout.write(`join: ${line}\n`),
  };
}
