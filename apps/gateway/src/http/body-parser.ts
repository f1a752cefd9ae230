import type { FastifyInstance } from "fastify";
import { ApiError } from "./errors.ts";

/**
 * Accepts only JSON, and reads an empty body as no body: the SDKs send
 * `Content-Type: application/json` with an empty body on pause, resume and the like.
 */
export function acceptJson(app: FastifyInstance): void {
  const parseJson = app.getDefaultJsonParser("error", "error");
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(
    /^application\/(?:[\w.+-]+\+)?json\b/,
    { parseAs: "string" },
    (request, body, done) => {
      if (body === "") return done(null, undefined);
      return parseJson(request, body as string, done);
    },
  );
  app.addContentTypeParser("*", { parseAs: "string" }, (_request, body, done) => {
    if (body === "") return done(null, undefined);
    return done(
      new ApiError(
        "UNSUPPORTED_MEDIA_TYPE",
        "Send the body as JSON, with the header Content-Type: application/json.",
        {
          details: { field: "Content-Type" },
        },
      ),
    );
  });
}
