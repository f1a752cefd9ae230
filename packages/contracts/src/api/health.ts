/** Health of a gateway. */
import { Type } from "typebox";

export const HealthReply = Type.Object({
  status: Type.String({
    description:
      "`ok`; `degraded` when a part is missing; `draining` (with 503) when this gateway is about to stop",
  }),
  service: Type.String(),
  database: Type.String(),
  bus: Type.String(),
  request_id: Type.String(),
});
