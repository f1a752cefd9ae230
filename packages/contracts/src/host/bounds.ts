/**
 * Bounds of every message from a host, beyond its schema: numbers and texts that the database can
 * store. A host is not trusted: a message out of bounds is refused once, on arrival. The bounds are
 * not in the schemas, because those are released (versioned-schemas.ts).
 */
import { type Decoder, decoder, InvalidMessageError } from "../decode.ts";
import type { SandboxId } from "../ids.ts";
import { decodeHeartbeat, type Heartbeat, withoutSome } from "./heartbeat.ts";
import { Observation } from "./observation.ts";

/** Maximum of Postgres' `integer`. */
const MAX_COUNT = 2 ** 31 - 1;
/** Bytes and milliseconds are stored as `bigint`, and are exact in JavaScript up to here. */
const MAX_QUANTITY = Number.MAX_SAFE_INTEGER;
const QUANTITY = /(?:[bB]ytes|Ms|MsAgo|bytesDone|bytesTotal)$/;
const MAX_TEXT_LENGTH = 4_096;
const MAX_ENTRIES = 10_000;
/** More than real messages need: an observation in the inventory of a heartbeat has depth four. */
const MAX_DEPTH = 8;
/** Text for people, which any program may have printed: cut and cleaned instead of refused. */
const FREE_TEXT = "message";

/** Wraps `decode`, for messages of hosts. Throws InvalidMessageError, which names the field. */
export function bounded<T>(decode: Decoder<T>): Decoder<T> {
  return (subject, bytes) => checked(subject, decode(subject, bytes));
}

const decodeBounded = bounded(decoder(Observation));

export const decodeBoundedObservation: Decoder<Observation> = (subject, bytes) => {
  const seen = decodeBounded(subject, bytes);
  const problem = storeKeyProblem(seen);
  if (problem !== undefined) throw new InvalidMessageError(subject, [problem]);
  return seen;
};

/** A store key must begin with the sandbox's id: a host must not name another sandbox's entry. */
function storeKeyProblem({ sandboxId, snapshot }: Observation): string | undefined {
  const storeKey = snapshot?.storeKey ?? null;
  if (storeKey === null || isStoredOf(sandboxId, storeKey)) return undefined;
  return `/snapshot/storeKey must begin with ${sandboxId}/`;
}

export function isStoredOf(sandboxId: SandboxId, storeKey: string): boolean {
  return storeKey.startsWith(`${sandboxId}/`);
}

/** Leaves out sandboxes that are out of bounds, so that the others on the host do not suffer. */
export const decodeBoundedHeartbeat: Decoder<Heartbeat> = (subject, bytes) => {
  const { inventory, ...rest } = decodeHeartbeat(subject, bytes);
  const within = withCleanTexts(inventory).filter(
    (seen) => (boundsProblem(seen) ?? storeKeyProblem(seen)) === undefined,
  );
  return withoutSome({ ...checked(subject, rest), inventory }, within);
};

function checked<T>(subject: string, message: T): T {
  const clean = withCleanTexts(message);
  const problem = boundsProblem(clean);
  if (problem !== undefined) throw new InvalidMessageError(subject, [problem]);
  return clean;
}

/** The first value out of bounds, with its path; undefined: there is none. */
export function boundsProblem(value: unknown, path = "", depth = 0): string | undefined {
  const at = path === "" ? "(message)" : path;
  if (typeof value === "number") return numberProblem(value, at);
  if (typeof value === "string") return textProblem(value, at);
  if (typeof value !== "object" || value === null) return undefined;
  if (depth >= MAX_DEPTH) return `${at} is nested too deeply`;
  const entries = Object.entries(value);
  if (entries.length > MAX_ENTRIES) return `${at} has more than ${MAX_ENTRIES} entries`;
  for (const [name, inner] of entries) {
    const problem =
      textProblem(name, `a name in ${at}`) ?? boundsProblem(inner, `${path}/${name}`, depth + 1);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

function numberProblem(value: number, at: string): string | undefined {
  const most = QUANTITY.test(at) ? MAX_QUANTITY : MAX_COUNT;
  return value >= 0 && value <= most ? undefined : `${at} must be between 0 and ${most}`;
}

function textProblem(text: string, at: string): string | undefined {
  if (text.length > MAX_TEXT_LENGTH) return `${at} is longer than ${MAX_TEXT_LENGTH} characters`;
  return isStorable(text) ? undefined : `${at} holds a NUL or half a character`;
}

/** Postgres stores no NUL character, and no half of a surrogate pair. */
export function isStorable(text: string): boolean {
  return !text.includes("\0") && text.isWellFormed();
}

/** A copy with every free text made storable. */
function withCleanTexts<T>(value: T, depth = 0): T {
  if (typeof value !== "object" || value === null || depth >= MAX_DEPTH) return value;
  if (Array.isArray(value)) return value.map((inner) => withCleanTexts(inner, depth + 1)) as T;
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [
      name,
      name === FREE_TEXT && typeof inner === "string"
        ? cleaned(inner)
        : withCleanTexts(inner, depth + 1),
    ]),
  ) as T;
}

const cleaned = (text: string) =>
  text.slice(0, MAX_TEXT_LENGTH).replaceAll("\0", "\u{fffd}").toWellFormed();

const MAX_CAPACITY = { vcpu: 100_000, memoryMib: 2 ** 27, diskMib: MAX_COUNT };

/** Limit of labels, fingerprints and images, because they are shown wherever the host is. */
const MAX_OF_EACH = 256;
const MAX_NAME_LENGTH = 256;
const DIGEST = /^[0-9a-f]{64}$/;

interface Offer {
  dataPlaneUrl: string;
  capacity: Record<keyof typeof MAX_CAPACITY, number>;
  region: string;
  labels: Readonly<Record<string, string>>;
  driver: string;
  driverFingerprint: string;
  restorableFingerprints?: readonly string[];
  agentVersion: string;
  images: readonly { templateName: string; sha256: string }[];
}

/** Why a registration is refused, for the operator who set the host up. */
export function registrationProblem(offer: Offer): string | undefined {
  const { dataPlaneUrl, capacity, images } = offer;
  const problem = dataPlaneUrlProblem(dataPlaneUrl);
  if (problem !== undefined) return `dataPlaneUrl ${problem}`;
  for (const [name, most] of Object.entries(MAX_CAPACITY))
    if (capacity[name as keyof typeof MAX_CAPACITY] > most)
      return `capacity/${name} must be at most ${most}`;
  return namesProblem(offer) ?? imagesProblem(images);
}

function namesProblem(offer: Offer): string | undefined {
  const {
    region,
    driver,
    driverFingerprint,
    agentVersion,
    labels,
    restorableFingerprints = [],
  } = offer;
  const names = {
    region,
    driver,
    driverFingerprint,
    agentVersion,
    dataPlaneUrl: offer.dataPlaneUrl,
  };
  for (const [name, text] of Object.entries(names)) if (isLong(text)) return tooLong(name);
  const lists = { labels: Object.entries(labels).flat(), restorableFingerprints };
  for (const [name, texts] of Object.entries(lists))
    if (texts.some(isLong)) return tooLong(`one of ${name}`);
  const counts = {
    labels: Object.keys(labels).length,
    restorableFingerprints: restorableFingerprints.length,
  };
  for (const [name, count] of Object.entries(counts))
    if (count > MAX_OF_EACH) return `${name} must be ${MAX_OF_EACH} at most`;
  return undefined;
}

const isLong = (text: string) => text.length > MAX_NAME_LENGTH;
const tooLong = (name: string) => `${name} must have ${MAX_NAME_LENGTH} characters at most`;

function imagesProblem(images: Offer["images"]): string | undefined {
  if (images.length > MAX_OF_EACH) return `images must be ${MAX_OF_EACH} at most`;
  for (const [at, { templateName, sha256 }] of images.entries()) {
    if (!DIGEST.test(sha256)) return `images/${at}/sha256 must be 64 hexadecimal digits`;
    if (isLong(templateName)) return tooLong(`images/${at}/templateName`);
  }
  return undefined;
}

/** Checks that a data plane's URL is an origin and nothing else. */
export function dataPlaneUrlProblem(text: string): string | undefined {
  const url = URL.parse(text);
  const example = "must look like https://10.0.0.5:9401";
  if (url === null) return `${example}: it cannot be read as an address`;
  if (url.protocol !== "http:" && url.protocol !== "https:")
    return `${example}: it begins with ${url.protocol}`;
  const isOrigin = url.pathname === "/" && url.search === "" && url.hash === "";
  const isBare = url.username === "" && url.password === "" && url.hostname !== "";
  return isOrigin && isBare ? undefined : `${example}: it has more than a host and a port`;
}
