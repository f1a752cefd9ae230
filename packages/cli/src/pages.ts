import type { Api } from "./api.ts";

interface Page<T> {
  data: T[];
  /** Absent in older gateways, which return some lists in one piece. */
  next_cursor?: string | null;
}

/** Reads all pages of a list. */
export async function readAll<T>(api: Api, path: string, query: URLSearchParams): Promise<T[]> {
  const all: T[] = [];
  for (;;) {
    const page = await api.call<Page<T>>("GET", `${path}?${query.toString()}`);
    all.push(...page.data);
    if (page.next_cursor === null || page.next_cursor === undefined) return all;
    query.set("cursor", page.next_cursor);
  }
}
