/**
 * The sandbox's names in its files: /etc/hostname, a line of /etc/hosts, /etc/machine-id.
 *
 * NM1  The names are written when the sandbox starts, never when it is resumed.
 * NM2  A name is replaced only if it still is what the last start wrote: anything else is the
 *      user's.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

export interface Names {
  hostname?: string;
  machineId?: string;
}

export interface NamePlaces {
  etcDir: string;
  /** Record of what the last start wrote; on the sandbox's disk. */
  namesFile: string;
}

const LOOPBACK = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
const MAX_HOSTNAME_BYTES = 64;

/** Returns the machine's new name: the one in the file, which may be the user's. */
export function writeNames({ etcDir, namesFile }: NamePlaces, wanted: Names): string | undefined {
  const last = readNames(namesFile);
  const next = { ...last };
  const { hostname, machineId } = wanted;
  if (hostname !== undefined) {
    const isWritten = replaceOwn(`${etcDir}/hostname`, last.hostname, hostname);
    if (isWritten && replaceOwnHost(`${etcDir}/hosts`, last.hostname, hostname))
      next.hostname = hostname;
  }
  if (machineId !== undefined && replaceOwn(`${etcDir}/machine-id`, last.machineId, machineId))
    next.machineId = machineId;
  writeIfOther(namesFile, `${JSON.stringify(next)}\n`);
  return hostnameIn(`${etcDir}/hostname`) ?? hostname;
}

/** A sandbox without a record starts for the first time: its files are those of the image. */
function readNames(file: string): Names {
  try {
    const { hostname, machineId } = JSON.parse(read(file) ?? "{}") as Record<string, unknown>;
    return {
      ...(typeof hostname === "string" ? { hostname } : {}),
      ...(typeof machineId === "string" ? { machineId } : {}),
    };
  } catch {
    return {};
  }
}

/** Returns false when the file could not be written; the next start tries again. */
function replaceOwn(path: string, last: string | undefined, value: string): boolean {
  const isOwn = last === undefined || read(path)?.trim() === last;
  return !isOwn || writeIfOther(path, `${value}\n`);
}

function replaceOwnHost(path: string, last: string | undefined, hostname: string): boolean {
  const text = read(path) ?? LOOPBACK;
  const lineOf = (name: string) => `127.0.1.1\t${name}`;
  const lines = text.split("\n");
  if (last !== undefined) {
    const next = lines.map((line) => (line === lineOf(last) ? lineOf(hostname) : line)).join("\n");
    return next === text || writeIfOther(path, next);
  }
  if (lines.includes(lineOf(hostname))) return true;
  const isWhole = text === "" || text.endsWith("\n");
  return writeIfOther(path, `${text}${isWhole ? "" : "\n"}${lineOf(hostname)}\n`);
}

/** The first line that is no comment, as systemd reads it; undefined if that is no valid name. */
function hostnameIn(path: string): string | undefined {
  const lines = (read(path) ?? "").split("\n").map((line) => line.trim());
  const name = lines.find((line) => line !== "" && !line.startsWith("#"));
  if (name === undefined || Buffer.byteLength(name) > MAX_HOSTNAME_BYTES) return undefined;
  return /^[\w.-]+$/.test(name) ? name : undefined;
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

/** Returns false on failure: a full disk must not keep its sandbox from starting. */
function writeIfOther(path: string, text: string): boolean {
  if (read(path) === text) return true;
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    return true;
  } catch (error) {
    process.stderr.write(`${path} could not be written: ${String(error)}\n`);
    return false;
  }
}
