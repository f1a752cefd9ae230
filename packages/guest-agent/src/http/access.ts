import { timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { AgentError } from "../errors.ts";
import type { Route } from "./router.ts";

export interface KeyHolder {
  agentKey: string | undefined;
}

const KEY_HEADER = "x-torpor-agent-key";

/**
 * Every route except the open ones needs the agent key once the host has set one. Before that, only
 * the host's control routes respond: no user request reaches a restored guest before it has its
 * identity. Throws 401.
 */
export function authorize(
  access: Route["access"],
  keys: KeyHolder,
  incoming: IncomingMessage,
): void {
  if (access === "open") return;
  if (keys.agentKey === undefined) {
    if (access === "control") return;
    throw new AgentError(
      401,
      "AUTHENTICATION_REQUIRED",
      "this guest has not been given its identity yet",
    );
  }
  const expected = Buffer.from(keys.agentKey);
  const actual = Buffer.from(String(incoming.headers[KEY_HEADER] ?? ""));
  if (expected.length !== actual.length || !timingSafeEqual(expected, actual))
    throw new AgentError(401, "INVALID_TOKEN", "the agent key is missing or wrong");
}
