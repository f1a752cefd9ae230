/**
 * Words that docs/glossary.md replaces: not in names, log lines or documents. Only words without a
 * second, good sense are here.
 */
import type { Source } from "../references/sources.ts";

interface Banned {
  /** In a name that is split into its words, in lower case: `readDueWork` is `read due work`. */
  name?: RegExp;
  /** In documents, in lower case. */
  prose?: RegExp;
  instead: string;
}

const BANNED: readonly Banned[] = [
  { name: /\bsettles?\b/, prose: /\bsettles?\b|\bsettling\b/, instead: "apply, or complete" },
  { name: /\bstrays?\b/, prose: /\bstrays?\b/, instead: "orphan" },
  { name: /\bstranded\b/, prose: /\bstranded\b/, instead: "unplaceable" },
  { name: /\bunwell\b|\bis well$/, prose: /\bunwell\b/, instead: "unhealthy, healthy" },
  { name: /\bbeats?\b/, prose: /(?<!heart)\bbeats?\b/, instead: "heartbeat" },
  { name: /\bcarr(?:y|ies) out\b/, instead: "run, complete" },
  {
    name: /\bstands still\b/,
    prose: /\bstands? still\b/,
    instead: "at rest, or its vCPUs are paused",
  },
  { name: /\blies on\b/, prose: /\blies on a host\b/, instead: "resident on" },
  { name: /\bnowhere\b/, instead: "what is missing, by its name" },
  { prose: /\banew\b/, instead: "again" },
  { prose: /\bsomebody\b|\bwhoever\b|\bnobody\b/, instead: "who it is" },
];

/** Names of the wire, of columns, and of commands: they stay until their next version. */
const RELEASED = new Set(["last_beat_at", "stranded"]);
const NAME = /[A-Za-z_$][\w$]*/g;
const NOT_CODE =
  /\/\*[\s\S]*?\*\/|\/\/.*|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`|\/(?![*/])(?:[^/\\\n[]|\\.|\[[^\]\n]*\])+\/[dgimsuvy]*/g;
const BLOCK = /^```[\s\S]*?^```|`[^`\n]+`|\]\([^)]*\)/gm;

/** Where a banned word is used, a line each. */
export function checkWords(sources: readonly Source[], banned = BANNED): string[] {
  return [...checkNames(sources, banned), ...checkProse(sources, banned)];
}

function checkNames(sources: readonly Source[], banned: readonly Banned[]): string[] {
  return sources
    .filter(({ path }) => path.endsWith(".ts"))
    .flatMap(({ path, text }) => {
      const names = new Set(text.replaceAll(NOT_CODE, " ").match(NAME) ?? []);
      return [...names]
        .filter((name) => !RELEASED.has(name))
        .flatMap((name) =>
          banned
            .filter((one) => one.name?.test(wordsOf(name)) === true)
            .map(({ instead }) => `${path}: the name ${name}; write: ${instead}`),
        );
    });
}

const wordsOf = (name: string) =>
  name
    .replaceAll(/([a-z0-9])([A-Z])/g, "$1 $2")
    .replaceAll("_", " ")
    .toLowerCase();

function checkProse(sources: readonly Source[], banned: readonly Banned[]): string[] {
  return sources
    .filter(({ path }) => path.endsWith(".md") && path !== "docs/glossary.md")
    .flatMap(({ path, text }) => {
      const blank = (span: string) => span.replaceAll(/[^\n]/g, " ");
      const lines = text.replaceAll(BLOCK, blank).toLowerCase().split("\n");
      return lines.flatMap((line, at) =>
        banned.flatMap(({ prose, instead }) => {
          const word = prose?.exec(line)?.[0];
          return word === undefined ? [] : [`${path}:${at + 1}: "${word}"; write: ${instead}`];
        }),
      );
    });
}
