/**
 * The only error body of the control plane: a superset that the JS and the Python SDK both
 * understand. JS reads the top level, Python reads `error`.
 */
import { type Static, Type } from "typebox";

export const ApiErrorBody = Type.Object({
  error: Type.Object({
    message: Type.String(),
    code: Type.String(),
    request_id: Type.String(),
    details: Type.Optional(Type.Unknown()),
  }),
  message: Type.String(),
  code: Type.String(),
  request_id: Type.String(),
  details: Type.Optional(Type.Unknown()),
});
export type ApiErrorBody = Static<typeof ApiErrorBody>;
