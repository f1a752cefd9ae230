import { encodeCursor } from "./cursor.ts";

interface PageOf<Row, View> {
  limit: number;
  /** Key of a row, for the cursor of the next page. */
  keyOf: (row: Row) => string | number;
  view: (row: Row) => View;
  url: string;
  requestId: string;
}

/**
 * A page of a list, as clients get it. `rows` has one more than `limit` if another page follows.
 */
export function pageOf<Row, View>(rows: readonly Row[], page: PageOf<Row, View>) {
  const shown = rows.slice(0, page.limit);
  const last = shown.at(-1);
  const hasMore = rows.length > page.limit && last !== undefined;
  const next = hasMore ? encodeCursor(String(page.keyOf(last))) : null;
  return {
    object: "list" as const,
    data: shown.map(page.view),
    has_more: hasMore,
    next_cursor: next,
    url: page.url,
    request_id: page.requestId,
  };
}
