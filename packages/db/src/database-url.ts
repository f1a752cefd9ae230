/**
 * Options in DATABASE_URL beside the address of the database.
 *
 * `?sslmode=verify-full&sslrootcert=/etc/torpor/ca.crt`: TLS, with the standard parameters of
 * Postgres clients. The driver reads only `sslmode`; with `verify-full` it trusts the CAs of
 * Node.js and no file.
 *
 * `?prepared_statements=off`: for a pooler that gives each transaction another connection and does
 * not keep prepared statements (PgBouncer before 1.21, or without `max_prepared_statements`).
 */
import { readFileSync } from "node:fs";

interface Reached {
  /** The URL for the driver. */
  url: string;
  options: { ssl?: { ca: string; host: string } };
  namesStatements: boolean;
}

const PREPARED_STATEMENTS = "prepared_statements";

/** Splits DATABASE_URL. Throws on an invalid value, or an unreadable file in `sslrootcert`. */
export function reached(databaseUrl: string): Reached {
  const url = URL.parse(databaseUrl);
  // Several hosts, or a socket: the driver parses such a URL, and reports what is wrong with it.
  if (url === null) return { url: databaseUrl, options: {}, namesStatements: true };
  const namesStatements = isOn(url.searchParams.get(PREPARED_STATEMENTS) ?? "on");
  if (url.searchParams.has(PREPARED_STATEMENTS)) url.searchParams.delete(PREPARED_STATEMENTS);
  return { ...withTls(url), namesStatements };
}

function isOn(value: string): boolean {
  if (value === "on" || value === "off") return value === "on";
  throw new Error(`DATABASE_URL has ${PREPARED_STATEMENTS}=${value}: it is on or off`);
}

function withTls(url: URL): Pick<Reached, "url" | "options"> {
  const rootCert = url.searchParams.get("sslrootcert");
  if (rootCert === null || rootCert === "system") return { url: url.href, options: {} };
  if (url.searchParams.get("sslmode") !== "verify-full")
    throw new Error(
      "DATABASE_URL has sslrootcert, which counts with sslmode=verify-full only: set that too",
    );
  url.searchParams.delete("sslrootcert");
  url.searchParams.delete("sslmode");
  // Without `host`, the driver would expect `localhost` in the certificate of an IP address.
  return { url: url.href, options: { ssl: { ca: read(rootCert), host: url.hostname } } };
}

function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    throw new Error(
      `${file} cannot be read (${(cause as NodeJS.ErrnoException).code}): correct sslrootcert in DATABASE_URL`,
      { cause },
    );
  }
}
