/** The hand-written files of this repository, read once. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

export interface Source {
  /** Relative to the root. */
  path: string;
  text: string;
}

const NOT_OURS = new Set(["node_modules", ".git", ".torpor", ".turbo", "__pycache__"]);
const TEXT = /\.(ts|py|sh|cjs|md|sql)$|(^|\/)torpor$/;
const IS_TEST = /(^|\/)tests?\//;
const GENERATED = /^packages\/db\/migrations\/meta\//;

/** Paths of all files. */
export function listFiles(directory = ""): string[] {
  return readdirSync(join(ROOT, directory), { withFileTypes: true }).flatMap((entry) => {
    const path = directory === "" ? entry.name : `${directory}/${entry.name}`;
    if (NOT_OURS.has(entry.name)) return [];
    if (entry.isDirectory()) return listFiles(path);
    return entry.isFile() ? [path] : [];
  });
}

export function readSources(files = listFiles()): Source[] {
  return files
    .filter((path) => TEXT.test(path) && !GENERATED.test(path))
    .toSorted()
    .map((path) => ({ path, text: readFileSync(join(ROOT, path), "utf8") }));
}

/** True for a test and for its support files. */
export const isTest = ({ path }: Source) => IS_TEST.test(path) && path.endsWith(".ts");

/** `S31` is a scenario, `SW1` a rule in the header of a file. */
export const LABEL = "S[1-9]\\d?|[A-Z]{1,4}[1-9]";
const TITLE = new RegExp(`["'\`]((?:(?:${LABEL}), )*(?:${LABEL})): `, "g");

/** Labels at the beginning of test names: `"S31, A1: what the end …"`. */
export function titlesIn({ text }: Source): string[] {
  return Array.from(text.matchAll(TITLE), ([, labels = ""]) => labels.split(", ")).flat();
}
