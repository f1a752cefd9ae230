/**
 * Certificates of a local fleet: its own authority, and one certificate per program. A start makes
 * the missing ones, and renews those that are about to expire.
 */
import { X509Certificate } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { isIP } from "node:net";
import { join } from "node:path";
import { type SpiffeIdentity, isRenewalDue, spiffeIdOf, type TlsFiles } from "@torpor/identity";
// The library loads slowly, so only a program that issues certificates imports it.
import type { Authority, CertificateSubject } from "@torpor/identity/authority";

const DAYS = 365;
const SERVER_ADDRESSES = ["127.0.0.1", "localhost"];

const dirOf = (dir: string) => join(dir, "secrets/tls");

export const authorityFiles = (dir: string) => ({
  certFile: join(dirOf(dir), "ca.crt"),
  keyFile: join(dirOf(dir), "ca.key"),
});

export function tlsFilesOf(dir: string, name: string): TlsFiles {
  return {
    certFile: join(dirOf(dir), `${name}.crt`),
    keyFile: join(dirOf(dir), `${name}.key`),
    caFile: authorityFiles(dir).certFile,
  };
}

/** The TLS files as settings of a program. */
export function tlsSettingsOf(dir: string, name: string): Record<string, string> {
  const { certFile, keyFile, caFile } = tlsFilesOf(dir, name);
  return { TLS_CERT_FILE: certFile, TLS_KEY_FILE: keyFile, TLS_CA_FILE: caFile };
}

interface Program {
  /** Base name of the files. */
  name: string;
  /** Names in the certificate, as Node.js formats them. */
  names: string[];
  subject: Omit<CertificateSubject, "days">;
}

/**
 * Issues a certificate for each program that has no valid one. `serverAddresses`: addresses of the
 * servers besides loopback.
 */
export async function makeCertificates(
  dir: string,
  hostIds: string[],
  serverAddresses: string[] = [],
): Promise<void> {
  await mkdir(dirOf(dir), { recursive: true, mode: 0o700 });
  const open = once(async () => await authorityIn(dir));
  const programs = [
    ofIdentity("gateway", { role: "gateway" }),
    ofIdentity("scheduler", { role: "scheduler" }),
    ofServers([...SERVER_ADDRESSES, ...serverAddresses]),
    ...hostIds.map((hostId) => ofIdentity(hostId, { role: "host", hostId })),
  ];
  for (const { name, names, subject } of programs) {
    const { certFile, keyFile } = tlsFilesOf(dir, name);
    if (await isGood(certFile, names)) continue;
    const { certificatePem, keyPem } = await (await open()).issue({ ...subject, days: DAYS });
    await writeFile(keyFile, keyPem, { mode: 0o600 });
    await writeFile(certFile, certificatePem);
  }
}

const ofIdentity = (name: string, identity: SpiffeIdentity): Program => ({
  name,
  names: [`URI:${spiffeIdOf(identity)}`],
  subject: { identity },
});

const ofServers = (addresses: string[]): Program => ({
  name: "server",
  names: addresses.map((address) =>
    isIP(address) === 0 ? `DNS:${address}` : `IP Address:${address}`,
  ),
  subject: { addresses },
});

async function authorityIn(dir: string): Promise<Authority> {
  const { Authority, createAuthority } = await import("@torpor/identity/authority");
  const { certFile, keyFile } = authorityFiles(dir);
  if (!(await isGood(certFile, []))) {
    const { certificatePem, keyPem } = await createAuthority();
    await writeFile(keyFile, keyPem, { mode: 0o600 });
    await writeFile(certFile, certificatePem);
  }
  return await Authority.open({
    certificatePem: await readFile(certFile, "utf8"),
    keyPem: await readFile(keyFile, "utf8"),
  });
}

async function isGood(certFile: string, names: string[]): Promise<boolean> {
  const text = await readFile(certFile, "utf8").catch(() => undefined);
  if (text === undefined) return false;
  const certificate = new X509Certificate(text);
  const has = (certificate.subjectAltName ?? "").split(", ");
  return names.every((name) => has.includes(name)) && !isRenewalDue(certificate, Date.now());
}

function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => (made ??= make());
}
