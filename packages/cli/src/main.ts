/** The commands behind ./torpor, one file each; this file only dispatches. */
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { NoAnswer } from "@torpor/client";
import { messageOf } from "@torpor/service";

export interface CommandContext {
  /** Root of the checkout. */
  root: string;
  args: string[];
  write: (line: string) => void;
}

type Command = (context: CommandContext) => Promise<number>;

const COMMANDS: Record<string, () => Promise<Command>> = {
  demo: async () => (await import("./commands/demo.ts")).demo,
  up: async () => (await import("./commands/up.ts")).up,
  down: async () => (await import("./commands/up.ts")).down,
  restart: async () => (await import("./commands/restart.ts")).restart,
  status: async () => (await import("./commands/status.ts")).status,
  image: async () => (await import("./commands/image.ts")).image,
  lab: async () => (await import("./commands/lab.ts")).lab,
  hosts: async () => (await import("./commands/hosts.ts")).hosts,
  host: async () => (await import("./commands/host.ts")).host,
  key: async () => (await import("./commands/key.ts")).key,
  org: async () => (await import("./commands/org.ts")).org,
  template: async () => (await import("./commands/template.ts")).template,
  bench: async () => (await import("./commands/bench.ts")).bench,
  test: async () => (await import("./commands/test.ts")).test,
};

const { positionals } = parseArgs({ args: process.argv.slice(2, 3), allowPositionals: true });
const load = COMMANDS[positionals[0] ?? ""];
const root = fileURLToPath(new URL("../../../", import.meta.url));
const write = (line: string) => process.stdout.write(`${line}\n`);
// The reader of the output may leave (| head). The command still completes.
process.stdout.on("error", () => {});

if (load === undefined) {
  process.stderr.write(
    `torpor: there is no command "${positionals[0] ?? ""}"; there are: ${Object.keys(COMMANDS).join(", ")}\n`,
  );
  process.exit(2);
}
try {
  process.exitCode = await (await load())({ root, args: process.argv.slice(3), write });
} catch (error) {
  process.stderr.write(`torpor: ${messageOf(error)}\n`);
  if (error instanceof NoAnswer)
    process.stderr.write("torpor: ./torpor status shows whether the local fleet is up\n");
  process.exitCode = 1;
}
