/**
 * Certificates of a local fleet: an authority of its own, and one certificate for each program.
 * They are made at a start where there are none, and again when they are about to end.
 */
import { X509Certificate } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { isIP } from "node:net";
import { join } from "node:path";
import { type SpiffeIdentity, isRenewalDue, spiffeIdOf, type TlsFiles } from "@torpor/identity";
// The library behind it takes a while to load: only who makes certificates has to wait for it.
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

/** As settings of a program. */
export function tlsSettingsOf(dir: string, name: string): Record<string, string> {
  const { certFile, keyFile, caFile } = tlsFilesOf(dir, name);
  return { TLS_CERT_FILE: certFile, TLS_KEY_FILE: keyFile, TLS_CA_FILE: caFile };
}

interface Program {
  /** Of its files. */
  name: string;
  /** As Node.js reads them from its certificate. */
  names: string[];
  subject: Omit<CertificateSubject, "days">;
}

/**
 * One for each program that has none yet. `serverAddresses`: where servers are reached beside
 * loopback.
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
