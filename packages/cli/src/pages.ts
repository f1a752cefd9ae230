import type { Api } from "./api.ts";

interface Page<T> {
  data: T[];
  next_cursor: string | null;
}

/** Every page of a list. */
export async function readAll<T>(api: Api, path: string, query: URLSearchParams): Promise<T[]> {
  const all: T[] = [];
  for (;;) {
    const page = await api.call<Page<T>>("GET", `${path}?${query.toString()}`);
    all.push(...page.data);
    if (page.next_cursor === null) return all;
    query.set("cursor", page.next_cursor);
  }
}
