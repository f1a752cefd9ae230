/** A connection to any TCP port of a guest, through its agent: the host has no other way in. */
import { messageOf } from "@torpor/service";
import { type IncomingMessage, request as httpRequest } from "node:http";
import type { Socket } from "node:net";
import { GUEST_AGENT_KEY_HEADER, GUEST_TUNNEL, jsonParser } from "@torpor/contracts";
import { type Static, Type } from "typebox";
import { connectGuest, type GuestAddress } from "../guest-connection.ts";
import type { Refusal } from "./refusal.ts";

/** Address of a guest's agent on this host, and the key that opens it. */
export interface GuestRoute {
  address: GuestAddress;
  agentKey: string;
}

const OPEN_LIMIT_MS = 10_000;
const MAX_REASON_LENGTH = 4_096;

const Reason = Type.Object({
  code: Type.Optional(Type.String()),
  message: Type.Optional(Type.String()),
});
type Reason = Static<typeof Reason>;
const parseReason = jsonParser(Reason);

/** Opens a tunnel. Never rejects: a failure is returned as the response to the client. */
export async function openTunnel(route: GuestRoute, port: number): Promise<Socket | Refusal> {
  const agent = await connectAgent(route);
  if ("code" in agent) return agent;
  const request = httpRequest({
    createConnection: () => agent,
    path: `${GUEST_TUNNEL.path}?port=${port}`,
    headers: {
      connection: "Upgrade",
      upgrade: GUEST_TUNNEL.protocol,
      [GUEST_AGENT_KEY_HEADER]: route.agentKey,
    },
  });
  const limit = setTimeout(
    () => request.destroy(new Error(`no tunnel within ${OPEN_LIMIT_MS} ms`)),
    OPEN_LIMIT_MS,
  );
  try {
    return await new Promise<Socket | Refusal>((resolve) => {
      request.once("upgrade", (_answer, socket: Socket, head) => {
        if (head.length > 0) socket.unshift(head);
        socket.setNoDelay(true);
        resolve(socket);
      });
      request.once("response", (answer) => {
        void reasonIn(answer).then((reason) =>
          resolve(refusalOf(port, answer.statusCode ?? 502, reason)),
        );
      });
      request.on("error", (error) => resolve(agentUnreachable(error)));
      request.end();
    });
  } finally {
    clearTimeout(limit);
  }
}

/** Never rejects. */
export async function connectAgent({ address }: GuestRoute): Promise<Socket | Refusal> {
  return await connectGuest(address).catch((error: unknown) => agentUnreachable(error));
}

/** A 503, because a guest that cannot be reached has done nothing of the request. */
export function agentUnreachable(error: unknown): Refusal {
  const why = messageOf(error);
  return { code: "SERVICE_UNAVAILABLE", message: `The sandbox's agent cannot be reached: ${why}` };
}

/** Empty if the body gives no reason, or is longer than one can be: a guest may send anything. */
async function reasonIn(answer: IncomingMessage): Promise<Reason> {
  let text = "";
  try {
    for await (const chunk of answer.setEncoding("utf8") as AsyncIterable<string>) {
      text += chunk;
      if (text.length > MAX_REASON_LENGTH) return {};
    }
  } catch {
    return {};
  }
  const parsed = parseReason(text);
  return parsed.kind === "valid" ? parsed.value : {};
}

function refusalOf(port: number, status: number, { code, message }: Reason): Refusal {
  if (code === "PORT_NOT_OPEN")
    return {
      code,
      message: `Nothing listens on port ${port} in this sandbox. Start a server there, then try again.`,
    };
  return {
    code: "PREVIEW_UNAVAILABLE",
    message: `Port ${port} cannot be reached: ${status} ${message ?? code ?? "no reason given"}`,
  };
}
