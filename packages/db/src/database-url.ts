/**
 * TLS as DATABASE_URL asks for it, in the words that every client of Postgres knows:
 * `?sslmode=verify-full&sslrootcert=/etc/torpor/ca.crt`. The driver reads `sslmode` alone; with
 * `verify-full` it trusts what Node.js does, and no file.
 */
import { readFileSync } from "node:fs";

interface Reached {
  /** For the driver. */
  url: string;
  options: { ssl?: { ca: string; host: string } };
}

/** Throws when the file of `sslrootcert` cannot be read, or nothing would be checked against it. */
export function reached(databaseUrl: string): Reached {
  const url = URL.parse(databaseUrl);
  const rootCert = url?.searchParams.get("sslrootcert");
  if (url === null || rootCert === null || rootCert === undefined || rootCert === "system")
    return { url: databaseUrl, options: {} };
  if (url.searchParams.get("sslmode") !== "verify-full")
    throw new Error(
      "DATABASE_URL has sslrootcert, which counts with sslmode=verify-full only: set that too",
    );
  url.searchParams.delete("sslrootcert");
  url.searchParams.delete("sslmode");
  // The name is given: for an address the driver would look for `localhost` in the certificate.
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
