/**
 * How a browser uses a preview with `preview_access: token`: a link, opened once, leaves a cookie.
 *
 * PS1  The cookie is for one host and one port of one sandbox, and no script reads it.
 * PS2  Pages of others make no request with it, nor do those of other sandboxes, which are on the
 *      same site: what names an origin that is not this sandbox's own does not count as its user.
 * PS3  The application sees neither the link nor the cookie.
 */
import type { IncomingMessage } from "node:http";
import type { Database } from "@torpor/db";
import { wrongPreviewLink, sandboxNotFound } from "../errors.ts";
import type { Guesses } from "../guesses.ts";
import type { Proxies } from "../proxies.ts";
import type { Preview, PreviewLinks, SessionGrant } from "../preview-links.ts";
import { type Endpoint, isPreview } from "./endpoint.ts";

const PARAMETER = "torpor_preview";
const COOKIE = "torpor-preview-";
/** Browsers take a cookie of such a name from this host alone, by https alone. */
const HOST_PREFIX = "__Host-";
/** Of the same name: whoever else sets cookies for a domain above cannot hide the good one. */
const MAX_TRIED = 8;

/** The path of a link, with its token in it. */
export function withLink(path: string, token: string): string {
  return `${path}${path.includes("?") ? "&" : "?"}${PARAMETER}=${token}`;
}

/** The token of a link, and the path without it; undefined: this is none. */
export function linkIn(url: string): { token: string; path: string } | undefined {
  const [path = "", query = ""] = url.split(/\?(.*)/s, 2);
  const prefix = `${PARAMETER}=`;
  const parts = query.split("&");
  const own = parts.find((part) => part.startsWith(prefix));
  if (own === undefined) return undefined;
  const others = parts.filter((part) => part !== own);
  // A path of several slashes would lead to another host.
  const samePath = path.replace(/^[/\\]+/, "/");
  return {
    token: own.slice(prefix.length),
    path: others.length === 0 ? samePath : `${samePath}?${others.join("&")}`,
  };
}

/** Where a link leads to, and the cookie that comes with it. */
export interface Opened {
  path: string;
  cookie?: string;
}

interface LinkDependencies {
  db: Database;
  previewLinks: PreviewLinks;
  linkGuesses: Guesses;
  proxies: Proxies;
}

/**
 * Undefined for any other request. Throws the 401 of a link that is good no more, and the 429 of an
 * address that sends too many of these: they pass before anybody else counts them.
 */
export async function openLink(
  deps: LinkDependencies,
  door: Endpoint,
  incoming: IncomingMessage,
  isSecure: boolean,
): Promise<Opened | undefined> {
  const isRead = incoming.method === "GET" || incoming.method === "HEAD";
  const link = isRead && isPreview(door) ? linkIn(incoming.url ?? "") : undefined;
  if (link === undefined) return undefined;
  const open = () => openedBy(deps, door, incoming, { ...link, isSecure });
  const opened = await deps.linkGuesses.judge(deps.proxies.clientOf(incoming), open);
  if (opened === undefined) throw wrongPreviewLink();
  return opened;
}

/** Undefined: it is for somebody else, or good no more. */
async function openedBy(
  deps: LinkDependencies,
  door: Endpoint,
  incoming: IncomingMessage,
  link: { token: string; path: string; isSecure: boolean },
): Promise<Opened | undefined> {
  const view = await door.find(deps.db);
  if (view === undefined) throw sandboxNotFound(door.name);
  const { sandbox } = view;
  const preview = { sandbox, port: door.port };
  const opened = await deps.previewLinks.open(link.token, preview);
  if (opened !== undefined)
    return { path: link.path, cookie: cookieOf(door.port, opened, link.isSecure) };
  // Opened again later, from a history or a bookmark, it leads there all the same.
  const mayPass =
    sandbox.previewAccess === "public" ||
    (await sessionOf(deps.previewLinks, sandbox, door, incoming)) !== undefined;
  return mayPass ? { path: link.path } : undefined;
}

function cookieOf(
  port: number,
  { session, seconds }: { session: string; seconds: number },
  isSecure: boolean,
): string {
  const name = `${isSecure ? HOST_PREFIX : ""}${COOKIE}${port}`;
  const attributes = [`Max-Age=${seconds}`, "Path=/", "HttpOnly", "SameSite=Lax"];
  return [`${name}=${session}`, ...attributes, ...(isSecure ? ["Secure"] : [])].join("; ");
}

/**
 * By the cookie of a link, from where it may be used (PS2); undefined: there is none that is good.
 */
export async function sessionOf(
  links: Pick<PreviewLinks, "grantOf">,
  sandbox: Preview["sandbox"],
  door: Endpoint,
  { headers }: Pick<IncomingMessage, "headers">,
): Promise<SessionGrant | undefined> {
  if (!isPreview(door) || !isOwnOrigin(headers.origin, headers.host)) return undefined;
  const names = [`${COOKIE}${door.port}`, `${HOST_PREFIX}${COOKIE}${door.port}`];
  const sent = cookiesIn(headers.cookie).filter((cookie) => names.includes(nameOf(cookie)));
  for (const cookie of sent.slice(0, MAX_TRIED)) {
    const session = cookie.slice(cookie.indexOf("=") + 1);
    const grant = await links.grantOf(session, { sandbox, port: door.port });
    if (grant !== undefined) return grant;
  }
  return undefined;
}

/** No origin is named by what a browser is told to open. Other ports of the sandbox are its own. */
function isOwnOrigin(origin: string | undefined, host: string | undefined): boolean {
  if (origin === undefined) return true;
  const from = URL.parse(origin)?.host;
  return from !== undefined && host !== undefined && sandboxIn(from) === sandboxIn(host);
}

/** A host without the port: in front of the name, or behind the address. */
const sandboxIn = (host: string) => host.toLowerCase().replace(/^\d+-/, "").replace(/:\d+$/, "");

/** The Cookie header without the edge's own; undefined: nothing is left. */
export function withoutSessions(header: string): string | undefined {
  const own = (cookie: string) => nameOf(cookie).replace(HOST_PREFIX, "").startsWith(COOKIE);
  const kept = cookiesIn(header).filter((cookie) => !own(cookie));
  return kept.length === 0 ? undefined : kept.join("; ");
}

const nameOf = (cookie: string) => cookie.split("=", 1)[0]?.trim() ?? "";
const cookiesIn = (header = "") =>
  header
    .split(";")
    .map((cookie) => cookie.trim())
    .filter((cookie) => cookie !== "");
