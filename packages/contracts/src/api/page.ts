/** Parts of schemas of lists that are read in pages. */
import { Type } from "typebox";

export const Nullable = <T extends Parameters<typeof Type.Union>[0][number]>(schema: T) =>
  Type.Union([schema, Type.Null()]);

/** Query of a list that is read in pages. */
export const PAGE_QUERY = {
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100 })),
  cursor: Type.Optional(
    Type.String({ maxLength: 128, description: "`next_cursor` of the page before" }),
  ),
};

/** Fields of a page besides its `data` (page.ts). */
export const PAGE = {
  object: Type.Literal("list"),
  has_more: Type.Boolean(),
  next_cursor: Nullable(Type.String()),
  url: Type.String(),
  request_id: Type.String(),
};

/** Field of an answer that is one resource. */
export const REQUEST_ID = { request_id: Type.String() };

export const PageQuery = Type.Object(PAGE_QUERY);
