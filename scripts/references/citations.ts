/** Checks that the files, decisions and sections that comments and documents cite exist. */
import { dirname, normalize } from "node:path";
import { isTest, type Source } from "./sources.ts";

const CITED_FILE =
  /(?<![\w$*{}<>./:-])(?:[\w.-]+\/)*[\w.-]*\w\.(?:md|ts|py|sh|cjs|sql)\b(?![\w/*])/g;
const LINK = /\]\((?!https?:|#|mailto:)([^)#\s]+)(?:#[^)\s]*)?\)/g;
const DECISION = /\bdecisions? (\d+)\b|\bdecisions\/(\d{4})\b/g;
/**
 * The section sign, or a number after the name of a document: numbered sections belong to documents
 * that are not in the repository.
 */
const SECTION = /\u00a7|\b[\w-]+\.md \d/;
const COMMENT = /^\s*(?:\/\*\*?|\*|\/\/|#)(.*)$/gm;
const ADDRESS = /https?:\/\/\S+/g;
/** A code block of a document shows input or output; it cites nothing. */
const BLOCK = /^```[\s\S]*?^```/gm;
/** Examples, and files of other programs. */
const NOT_OURS = new Set(["a.test.ts", "file.ts", "app.py", "main.py"]);

/** Returns a line for each citation without a target. `files`: all files of the repository. */
export function checkCitations(sources: readonly Source[], files: readonly string[]): string[] {
  const all = new Set(files);
  const ends = new Set(files.flatMap(endsOf));
  const decisions = new Set(
    files.flatMap((path) => /^docs\/decisions\/(\d{4})-/.exec(path)?.[1] ?? []).map(Number),
  );
  return sources.flatMap((source) => {
    const text = citingText(source).replaceAll(ADDRESS, "");
    const near = (cited: string) => all.has(normalize(`${dirname(source.path)}/${cited}`));
    const cited = [...text.matchAll(CITED_FILE)].map(([path]) => path);
    const gone = cited.filter((path) => !NOT_OURS.has(path) && !ends.has(path) && !near(path));
    const links = source.path.endsWith(".md") ? [...text.matchAll(LINK)] : [];
    const broken = links.flatMap(([, path = ""]) => (near(path) || isFolder(path) ? [] : [path]));
    const unknown = [...text.matchAll(DECISION)]
      .map(([, word, file]) => Number(word ?? file))
      .filter((number) => !decisions.has(number))
      .map((number) => `decision ${number}`);
    const sections = SECTION.exec(text)?.[0] ?? [];
    const wrong = [...gone, ...broken, ...unknown, ...[sections].flat()];
    return [...new Set(wrong)].map((what) => `${source.path} cites ${what}, which is not there`);
  });
}

const isFolder = (path: string) => !/\.\w+$/.test(path);

/** The path, and each shorter ending of it, down to the name. */
function endsOf(path: string): string[] {
  const parts = path.split("/");
  return parts.map((_, at) => parts.slice(at).join("/"));
}

/** The whole text of a document; of any other file, only the comments. */
function citingText(source: Source): string {
  if (source.path.endsWith(".md")) return source.text.replaceAll(BLOCK, "");
  if (isTest(source) && /\/python\//.test(source.path)) return "";
  return Array.from(source.text.matchAll(COMMENT), ([, line = ""]) => line).join("\n");
}
