/**
 * Access of a browser to a preview with `preview_access: token`: a link, opened once, leaves a
 * cookie.
 *
 * PS1  The cookie is for one host and one port of one sandbox, and no script reads it.
 * PS2  Pages of other sites cannot use the cookie, nor can pages of other sandboxes, which are on
 *      the same site: a request that names another origin than this sandbox's does not count as its
 *      user's.
 * PS3  The application sees neither the link nor the cookie.
 */
import type { IncomingMessage } from "node:http";
import type { Database } from "@torpor/db";
import { wrongPreviewLink, sandboxNotFound } from "../http/errors.ts";
import type { Guesses } from "../auth/guesses.ts";
import type { Proxies } from "../http/proxies.ts";
import type { Preview, PreviewLinks, SessionGrant } from "../auth/preview-links.ts";
import { type Endpoint, isPreview } from "./endpoint.ts";

const PARAMETER = "torpor_preview";
const COOKIE = "torpor-preview-";
/** Browsers accept a cookie with this prefix only from this host, and only over https. */
const HOST_PREFIX = "__Host-";
/**
 * Cookies of the same name to try: one that is set for a parent domain must not hide the good one.
 */
const MAX_TRIED = 8;

/** The path of a link, with its token in it. */
export function withLink(path: string, token: string): string {
  return `${path}${path.includes("?") ? "&" : "?"}${PARAMETER}=${token}`;
}

/** The token of a link, and the path without it; undefined: the URL is not a link. */
export function linkIn(url: string): { token: string; path: string } | undefined {
  const [path = "", query = ""] = url.split(/\?(.*)/s, 2);
  const prefix = `${PARAMETER}=`;
  const parts = query.split("&");
  const own = parts.find((part) => part.startsWith(prefix));
  if (own === undefined) return undefined;
  const others = parts.filter((part) => part !== own);
  // A path with several leading slashes would redirect to another host.
  const samePath = path.replace(/^[/\\]+/, "/");
  return {
    token: own.slice(prefix.length),
    path: others.length === 0 ? samePath : `${samePath}?${others.join("&")}`,
  };
}

/** The target of a link, and the cookie that comes with it. */
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
 * Opens a link; undefined for any other request. Throws the 401 for a link that has ended, and the
 * 429 for an address that sends too many such links: no other limit counts them.
 */
export async function openLink(
  deps: LinkDependencies,
  endpoint: Endpoint,
  incoming: IncomingMessage,
  isSecure: boolean,
): Promise<Opened | undefined> {
  const isRead = incoming.method === "GET" || incoming.method === "HEAD";
  const link = isRead && isPreview(endpoint) ? linkIn(incoming.url ?? "") : undefined;
  if (link === undefined) return undefined;
  const open = () => openedBy(deps, endpoint, incoming, { ...link, isSecure });
  const opened = await deps.linkGuesses.judge(deps.proxies.clientOf(incoming), open);
  if (opened === undefined) throw wrongPreviewLink();
  return opened;
}

/** Undefined: the link is for another preview, or has ended. */
async function openedBy(
  deps: LinkDependencies,
  endpoint: Endpoint,
  incoming: IncomingMessage,
  link: { token: string; path: string; isSecure: boolean },
): Promise<Opened | undefined> {
  const view = await endpoint.find(deps.db);
  if (view === undefined) throw sandboxNotFound(endpoint.name);
  const { sandbox } = view;
  const preview = { sandbox, port: endpoint.port };
  const opened = await deps.previewLinks.open(link.token, preview);
  if (opened !== undefined)
    return { path: link.path, cookie: cookieOf(endpoint.port, opened, link.isSecure) };
  // A link that has ended, from a history or a bookmark, still leads to a preview that is open
  // anyway.
  const mayPass =
    sandbox.previewAccess === "public" ||
    (await sessionOf(deps.previewLinks, sandbox, endpoint, incoming)) !== undefined;
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
 * The session in the cookie of a link, sent from where it may be used (PS2); undefined: no cookie
 * is good.
 */
export async function sessionOf(
  links: Pick<PreviewLinks, "grantOf">,
  sandbox: Preview["sandbox"],
  endpoint: Endpoint,
  { headers }: Pick<IncomingMessage, "headers">,
): Promise<SessionGrant | undefined> {
  if (!isPreview(endpoint) || !isOwnOrigin(headers.origin, headers.host)) return undefined;
  const names = [`${COOKIE}${endpoint.port}`, `${HOST_PREFIX}${COOKIE}${endpoint.port}`];
  const sent = cookiesIn(headers.cookie).filter((cookie) => names.includes(nameOf(cookie)));
  for (const cookie of sent.slice(0, MAX_TRIED)) {
    const session = cookie.slice(cookie.indexOf("=") + 1);
    const grant = await links.grantOf(session, { sandbox, port: endpoint.port });
    if (grant !== undefined) return grant;
  }
  return undefined;
}

/** A navigation of the browser has no origin. Other ports of the sandbox are its own. */
function isOwnOrigin(origin: string | undefined, host: string | undefined): boolean {
  if (origin === undefined) return true;
  const from = URL.parse(origin)?.host;
  return from !== undefined && host !== undefined && sandboxIn(from) === sandboxIn(host);
}

/** A host without its port, which is in front of a name, or behind an address. */
const sandboxIn = (host: string) => host.toLowerCase().replace(/^\d+-/, "").replace(/:\d+$/, "");

/** The Cookie header without the edge's own cookies; undefined: none is left. */
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
