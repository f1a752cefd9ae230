/** Comments and Markdown end at column 100; the formatter sees to the code. */
import type { Source } from "../references/sources.ts";

const WIDTH = 100;
/** Without a usage that is laid out in columns, three spaces in. */
const COMMENT = /^\s*(?:\/\/|\/?\*+)(?! {3})/;
const HASH_COMMENT = /^\s*#(?! {3})/;
const TABLE = /^\s*(?:[*#] )?\|/;
/** Read by a tool, which knows one line only. */
const DIRECTIVE = /oxlint-disable|@ts-/;
/** What precedes the text of a line: indentation, comment sign, list sign. */
const LEAD = /^\s*(?:(?:\/\/|\/?\*+|#+|>|[-*+]|\d+[.)])\s+)*/;
const CODE_SPAN = /`[^`]*`/g;

/** Lines that are too long and have a space at which to break, a line of text each. */
export function checkWidth(sources: readonly Source[]): string[] {
  return sources.flatMap(({ path, text }) => {
    let isInFence = false;
    return text.split("\n").flatMap((line, at) => {
      if (path.endsWith(".md") && /^\s*(```|~~~)/.test(line)) isInFence = !isInFence;
      const isProse = path.endsWith(".md") ? !isInFence : commentOf(path).test(line);
      const isTooLong = isProse && line.length > WIDTH && !TABLE.test(line);
      if (!isTooLong || DIRECTIVE.test(line) || !canBreak(line)) return [];
      return [`${path}:${at + 1} has ${line.length} columns; wrap it at ${WIDTH}`];
    });
  });
}

const commentOf = (path: string) => (/\.(ts|cjs)$/.test(path) ? COMMENT : HASH_COMMENT);

function canBreak(line: string): boolean {
  const lead = LEAD.exec(line)?.[0].length ?? 0;
  const whole = line.replaceAll(CODE_SPAN, (span) => span.replaceAll(" ", "_"));
  return whole.lastIndexOf(" ", WIDTH) >= lead;
}
