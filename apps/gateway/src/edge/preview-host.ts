/**
 * `preview_host: localhost`: to the application, the client looks like a browser on its own
 * machine. Development servers refuse other host names, against DNS rebinding.
 */
import type { IncomingMessage } from "node:http";
import type { Endpoint } from "./endpoint.ts";

const originOf = ({ port }: Endpoint) => `http://localhost${port === 80 ? "" : `:${port}`}`;

/** Headers in place of the client's own. An origin that is not the preview itself stays. */
export function localHeaders(
  endpoint: Endpoint,
  { headers }: IncomingMessage,
): Record<string, string> {
  const local = originOf(endpoint);
  const isSame =
    headers.origin !== undefined && URL.parse(headers.origin)?.host === headers.host?.toLowerCase();
  return { host: local.slice("http://".length), ...(isSame ? { origin: local } : {}) };
}

/** Rewrites the Location of a redirect to the application to the name that the client knows. */
export function publicLocations(
  rawHeaders: string[],
  endpoint: Endpoint,
  asked: { scheme: string; host: string },
): string[] {
  const local = originOf(endpoint);
  return rawHeaders.map((value, at) => {
    const isLocation = at % 2 === 1 && rawHeaders[at - 1]?.toLowerCase() === "location";
    if (!isLocation || !value.startsWith(local)) return value;
    const rest = value.slice(local.length);
    return rest === "" || /^[/?#]/.test(rest) ? `${asked.scheme}://${asked.host}${rest}` : value;
  });
}
