/** The commands behind ./torpor. Each command is one file; this one only chooses. */
import { parseArgs } from "node:util";
import { messageOf } from "./demo/narrator.ts";

export interface CommandContext {
  /** Root of the checkout. */
  root: string;
  args: string[];
  write(line: string): void;
}

type Command = (context: CommandContext) => Promise<number>;

const COMMANDS: Record<string, () => Promise<Command>> = {
  test: async () => (await import("./commands/test.ts")).test,
};

const { positionals } = parseArgs({ args: process.argv.slice(2, 3), allowPositionals: true });
const load = COMMANDS[positionals[0] ?? ""];
const root = new URL("../../../", import.meta.url).pathname;
const write = (line: string) => process.stdout.write(`${line}\n`);

if (load === undefined) {
  process.stderr.write(`torpor: ${positionals[0]} is not built yet\n`);
  process.exit(2);
}
try {
  process.exitCode = await (await load())({ root, args: process.argv.slice(3), write });
} catch (error) {
  process.stderr.write(`torpor: ${messageOf(error)}\n`);
  process.exitCode = 1;
}
