/**
 * Mutual TLS between programs of the fleet, from three files: a certificate with its key, and the
 * certificates of the authorities that are trusted. They are read again when they change, as a
 * program that renews certificates leaves them.
 */
import { readFile, stat } from "node:fs/promises";
import { type ClientRequest, request as httpRequest, type RequestListener } from "node:http";
import {
  createServer,
  request as httpsRequest,
  type RequestOptions,
  type Server,
  type ServerOptions,
} from "node:https";
import { createSecureContext, type PeerCertificate, TLSSocket } from "node:tls";
import { X509Certificate } from "node:crypto";
import { type Identity, identityIn, spiffeIdOf } from "./spiffe.ts";

export interface TlsFiles {
  certFile: string;
  keyFile: string;
  caFile: string;
}

interface Material {
  cert: string;
  key: string;
  ca: string;
}

/** Sessions are kept of so many hosts: the next connection to one needs no signatures. */
const KEPT_SESSIONS = 4_096;

export class FleetTls {
  private readonly files: TlsFiles;
  private material: Material;
  private version: string;
  private readonly sessions = new Map<string, Buffer>();
  private readonly servers = new Set<Server>();

  private constructor(files: TlsFiles, material: Material, version: string) {
    this.files = files;
    this.material = material;
    this.version = version;
  }

  /** Rejects, with the file that is wrong, when they cannot be used. */
  static async load(files: TlsFiles): Promise<FleetTls> {
    const version = await versionOf(files);
    return new FleetTls(files, await materialIn(files), version);
  }

  /**
   * Whether there was something new, which is used from now on. Rejects as `load` does; the old
   * stays in use then.
   */
  async reload(): Promise<boolean> {
    const version = await versionOf(this.files);
    if (version === this.version) return false;
    this.material = await materialIn(this.files);
    this.version = version;
    this.sessions.clear();
    for (const server of this.servers) server.setSecureContext(this.serverOptions());
    return true;
  }

  /** Of this program. */
  get certificate(): X509Certificate {
    return new X509Certificate(this.material.cert);
  }

  /** Lets nobody in without a certificate of a trusted authority. */
  createServer(options: ServerOptions, listener: RequestListener): Server {
    const server = createServer({ ...options, ...this.serverOptions() }, listener);
    this.servers.add(server);
    server.once("close", () => this.servers.delete(server));
    return server;
  }

  private serverOptions() {
    return {
      ...this.material,
      requestCert: true,
      rejectUnauthorized: true,
      minVersion: "TLSv1.3",
    } as const;
  }

  /** A request over a connection of its own, which fails unless `expected` is there. */
  request(url: URL, expected: Identity, options: RequestOptions): ClientRequest {
    const name = `${spiffeIdOf(expected)} ${url.host}`;
    const session = this.sessions.get(name);
    const request = httpsRequest({
      ...destination(url),
      ...options,
      agent: false,
      ...this.material,
      minVersion: "TLSv1.3",
      servername: "",
      ...(session === undefined ? {} : { session }),
      // Not called for a session that goes on: it was, when that began.
      checkServerIdentity: (_host: string, certificate: PeerCertificate) =>
        problemWith(certificate, expected),
    });
    request.once("socket", (socket) =>
      socket.on("session", (next: Buffer) => this.keepSession(name, next)),
    );
    return request;
  }

  private keepSession(name: string, session: Buffer): void {
    this.sessions.delete(name);
    this.sessions.set(name, session);
    const [oldest] = this.sessions.keys();
    if (this.sessions.size > KEPT_SESSIONS && oldest !== undefined) this.sessions.delete(oldest);
  }
}

/**
 * A request over a connection of its own, to the host `expected`. Hosts without a certificate (of
 * 0.1.0, or in a fleet without TLS) have `http:` addresses. Throws when this program has none.
 */
export function requestTo(
  url: URL,
  { tls, expected }: { tls: FleetTls | undefined; expected: Identity },
  options: RequestOptions,
): ClientRequest {
  if (url.protocol !== "https:")
    return httpRequest({ ...destination(url), ...options, agent: false });
  if (tls === undefined)
    throw new Error(
      `${url.origin} is reached by TLS alone, and this program has no certificate: set TLS_CERT_FILE`,
    );
  return tls.request(url, expected, options);
}

/** Who is at the other end of a server's connection; undefined without TLS, and for strangers. */
export function peerOf(socket: unknown): Identity | undefined {
  if (!(socket instanceof TLSSocket) || !socket.authorized) return undefined;
  return identityIn(socket.getPeerX509Certificate()?.subjectAltName);
}

function destination(url: URL): { host: string; port: string } {
  return {
    host: url.hostname.replace(/^\[(.*)\]$/, "$1"),
    port: url.port || (url.protocol === "https:" ? "443" : "80"),
  };
}

function problemWith({ subjectaltname }: PeerCertificate, expected: Identity): Error | undefined {
  const found = identityIn(subjectaltname);
  if (found !== undefined && spiffeIdOf(found) === spiffeIdOf(expected)) return undefined;
  const who =
    found === undefined ? `no program of this fleet (${subjectaltname})` : spiffeIdOf(found);
  return new Error(`the certificate there is that of ${who}, not of ${spiffeIdOf(expected)}`);
}

async function materialIn({ certFile, keyFile, caFile }: TlsFiles): Promise<Material> {
  const [cert, key, ca] = await Promise.all([certFile, keyFile, caFile].map(read));
  const material = { cert: cert ?? "", key: key ?? "", ca: ca ?? "" };
  try {
    createSecureContext(material);
  } catch (cause) {
    throw new Error(
      `${certFile}, ${keyFile} and ${caFile} cannot be used together: ${String(cause)}`,
      { cause },
    );
  }
  return material;
}

async function read(file: string): Promise<string> {
  return await readFile(file, "utf8").catch((cause: unknown) => {
    throw new Error(
      `${file} cannot be read (${(cause as NodeJS.ErrnoException).code}): correct the variable that names it`,
      { cause },
    );
  });
}

async function versionOf(files: TlsFiles): Promise<string> {
  const found = await Promise.all(
    Object.values(files).map((file: string) =>
      stat(file).then(
        ({ mtimeMs, ino, size }) => `${ino} ${mtimeMs} ${size}`,
        () => "missing",
      ),
    ),
  );
  return found.join(", ");
}
