/** Lists that the API answers in pages. */
import type { Query, Send, Terms } from "./transport.ts";

export interface Page<T> {
  data: T[];
  /** Absent where the API answers the whole list at once. */
  next_cursor?: string | null;
}

/** All items of a list, read page by page while they are taken. */
export async function* itemsOf<T>(
  send: Send,
  path: string,
  query: Query = {},
  terms: Terms = {},
): AsyncGenerator<T, void, undefined> {
  for (let cursor: string | undefined; ;) {
    const page = await send<Page<T>>("GET", path, { ...terms, query: { ...query, cursor } });
    yield* page.data;
    if (page.next_cursor === null || page.next_cursor === undefined) return;
    cursor = page.next_cursor;
  }
}
