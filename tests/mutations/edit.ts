/** Mutations as edits of files. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Mutation } from "./mutations.ts";

/** Makes the mutation in the checkout `root`. Throws when its text does not occur exactly once. */
export async function mutate(root: string, mutation: Mutation): Promise<void> {
  const path = join(root, mutation.file);
  const [before, after] = around(await readFile(path, "utf8"), mutation);
  await writeFile(path, before + mutation.replace + after);
}

/** Why the mutation cannot be made in the checkout `root` any more; undefined if it can. */
export async function outOfDate(root: string, mutation: Mutation): Promise<string | undefined> {
  const content = await readFile(join(root, mutation.file), "utf8");
  try {
    around(content, mutation);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

function around(content: string, { name, file, find }: Mutation): [string, string] {
  const [before = "", after, ...more] = content.split(find);
  if (after !== undefined && more.length === 0) return [before, after];
  const times = more.length + (after === undefined ? 0 : 1);
  const where = `its text occurs ${times} times in ${file}, not once`;
  throw new Error(`the mutation "${name}" is out of date: ${where}`);
}
