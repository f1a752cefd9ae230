import type { FastifyReply, FastifyRequest } from "fastify";

/** Aborts when the client's connection closes before the whole response is written. */
export function clientGone(request: FastifyRequest, reply: FastifyReply): AbortSignal {
  if (request.raw.socket.destroyed) return AbortSignal.abort();
  const controller = new AbortController();
  reply.raw.once("close", () => {
    if (!reply.raw.writableFinished) controller.abort();
  });
  return controller.signal;
}
