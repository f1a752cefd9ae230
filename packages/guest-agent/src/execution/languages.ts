/**
 * The languages of code, and how to run each. A template supports a language if it has the
 * language's program.
 */
import { accessSync, constants } from "node:fs";
import { join } from "node:path";
import { MAX_PROGRAM_STRING_BYTES } from "@torpor/contracts/env-vars";
import { invalidRequest } from "../errors.ts";
import { isModule } from "./javascript.ts";

export interface Language {
  name: string;
  /** The program that must exist in the search path. */
  binary: string;
  aliases: readonly string[];
  /** Passes short `code` as an argument, which leaves standard input to the program itself. */
  run(code: string): { command: string; args: string[]; input?: string };
}

const withFlag = (command: string, flag: string, stdinFlag: string) => (code: string) =>
  Buffer.byteLength(code) > MAX_PROGRAM_STRING_BYTES || code.includes("\0")
    ? { command, args: [stdinFlag], input: code }
    : { command, args: [flag, code] };

const fromStdin =
  (command: string, ...args: string[]) =>
  (code: string) => ({ command, args, input: code });

const GO =
  'dir=$(mktemp -d) && cat > "$dir/main.go" && go run "$dir/main.go" < /dev/null; code=$?; rm -rf "$dir"; exit $code';

/** `helperDir` holds the helpers that are installed beside the agent (guest/*.cjs). */
const javascript = (helperDir: string) => (code: string) =>
  isModule(code)
    ? fromStdin(
        "node",
        "-r",
        join(helperDir, "javascript_require.cjs"),
        "--input-type=module",
        "-",
      )(code)
    : fromStdin("node", join(helperDir, "run_javascript.cjs"))(code);

const languages = (helperDir: string): readonly Language[] => [
  {
    name: "python",
    binary: "python3",
    aliases: ["python", "python3", "py"],
    run: withFlag("python3", "-c", "-"),
  },
  {
    name: "javascript",
    binary: "node",
    aliases: ["javascript", "js", "node", "nodejs"],
    run: javascript(helperDir),
  },
  {
    name: "bash",
    binary: "bash",
    aliases: ["bash", "sh", "shell"],
    run: withFlag("bash", "-c", "-s"),
  },
  { name: "go", binary: "go", aliases: ["go", "golang"], run: fromStdin("/bin/sh", "-c", GO) },
  { name: "perl", binary: "perl", aliases: ["perl"], run: fromStdin("perl", "-") },
  { name: "ruby", binary: "ruby", aliases: ["ruby", "rb"], run: fromStdin("ruby", "-") },
  { name: "php", binary: "php", aliases: ["php"], run: fromStdin("php") },
  { name: "r", binary: "Rscript", aliases: ["r"], run: fromStdin("Rscript", "-") },
];

/** Throws 400 when the sandbox lacks the language; the message lists the available ones. */
export function languageOf(asked: string, searchPath: string, helperDir: string): Language {
  const all = languages(helperDir);
  const language = all.find(({ aliases }) => aliases.includes(asked.toLowerCase()));
  if (language !== undefined && isInstalled(language.binary, searchPath)) return language;
  const installed = all
    .filter(({ binary }) => isInstalled(binary, searchPath))
    .map(({ name }) => name);
  throw invalidRequest(
    `"language": this template cannot run ${JSON.stringify(asked)}; it runs ${installed.join(", ")}`,
  );
}

function isInstalled(binary: string, searchPath: string): boolean {
  return searchPath.split(":").some((dir) => {
    try {
      accessSync(join(dir, binary), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
