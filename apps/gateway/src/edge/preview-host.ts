/**
 * `preview_host: localhost`: the application is spoken to as by a browser beside it. Servers that
 * are made for development refuse other names, against DNS rebinding.
 */
import type { IncomingMessage } from "node:http";
import type { Endpoint } from "./endpoint.ts";

const originOf = ({ port }: Endpoint) => `http://localhost${port === 80 ? "" : `:${port}`}`;

/** Headers in place of the client's own. An origin that is not the preview itself stays. */
export function localHeaders(door: Endpoint, { headers }: IncomingMessage): Record<string, string> {
  const local = originOf(door);
  const isSame =
    headers.origin !== undefined && URL.parse(headers.origin)?.host === headers.host?.toLowerCase();
  return { host: local.slice("http://".length), ...(isSame ? { origin: local } : {}) };
}

/** Raw headers of an answer that sends the client to the application: by the name it knows. */
export function publicLocations(
  rawHeaders: string[],
  door: Endpoint,
  asked: { scheme: string; host: string },
): string[] {
  const local = originOf(door);
  return rawHeaders.map((value, at) => {
    const isLocation = at % 2 === 1 && rawHeaders[at - 1]?.toLowerCase() === "location";
    if (!isLocation || !value.startsWith(local)) return value;
    const rest = value.slice(local.length);
    return rest === "" || /^[/?#]/.test(rest) ? `${asked.scheme}://${asked.host}${rest}` : value;
  });
}
