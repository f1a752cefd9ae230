/**
 * Mutual TLS between programs of the fleet, from three files: a certificate with its key, and the
 * certificates of the authorities that are trusted. They are read again when they change, as a
 * program that renews certificates leaves them.
 */
import { readFile, stat } from "node:fs/promises";
import {
  Agent as HttpAgent,
  type ClientRequest,
  request as httpRequest,
  type RequestListener,
} from "node:http";
import {
  Agent,
  type AgentOptions,
  createServer,
  request as httpsRequest,
  type RequestOptions,
  type Server,
  type ServerOptions,
} from "node:https";
import { createSecureContext, type PeerCertificate, type SecureContext, TLSSocket } from "node:tls";
import { X509Certificate } from "node:crypto";
import { type SpiffeIdentity, identityIn, spiffeIdOf } from "./spiffe.ts";

export interface TlsFiles {
  certFile: string;
  keyFile: string;
  caFile: string;
}

interface Material {
  cert: string;
  key: string;
  ca: string;
  /** Made of them once: to read keys and certificates again costs more than a handshake. */
  context: SecureContext;
}

/** Connections are kept to so many hosts. */
const KEPT_HOSTS = 4_096;
/**
 * A connection that was just used is used again where that is asked for. After so long it is not:
 * of a host that lost its power nothing would say so.
 */
const KEPT_IDLE_MS = 1_000;
const KEPT_IDLE_CONNECTIONS = 64;
const KEEPING = { keepAlive: true, timeout: KEPT_IDLE_MS, maxFreeSockets: KEPT_IDLE_CONNECTIONS };
const PLAIN = new HttpAgent(KEEPING);

/** Of one host. Both go on with its TLS sessions, so that a new connection needs no signatures. */
interface HostAgents {
  /** A connection for each request. */
  fresh: Agent;
  kept: Agent;
}

export class FleetTls {
  readonly files: TlsFiles;
  private material: Material;
  private version: string;
  /** By host and address, those used last behind. */
  private readonly agents = new Map<string, HostAgents>();
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
    // Their connections end when they are idle.
    this.agents.clear();
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
    const { cert, key, ca } = this.material;
    return {
      cert,
      key,
      ca,
      requestCert: true,
      rejectUnauthorized: true,
      minVersion: "TLSv1.3",
    } as const;
  }

  /** Fails unless `expected` is there. `isFresh`: over a connection of its own. */
  request(
    url: URL,
    expected: SpiffeIdentity,
    { isFresh, ...options }: FleetRequest,
  ): ClientRequest {
    const { fresh, kept } = this.agentsFor(url, expected);
    return httpsRequest({
      ...destination(url),
      ...options,
      agent: isFresh === true ? fresh : kept,
    });
  }

  private agentsFor(url: URL, expected: SpiffeIdentity): HostAgents {
    const name = `${spiffeIdOf(expected)} ${url.host}`;
    const agents = this.agents.get(name) ?? this.newAgents(expected);
    this.agents.delete(name);
    this.agents.set(name, agents);
    const [oldest] = this.agents.keys();
    if (this.agents.size > KEPT_HOSTS && oldest !== undefined) this.agents.delete(oldest);
    return agents;
  }

  private newAgents(expected: SpiffeIdentity): HostAgents {
    const options = this.agentOptions(expected);
    return { fresh: new Agent(options), kept: new Agent({ ...options, ...KEEPING }) };
  }

  private agentOptions(expected: SpiffeIdentity): AgentOptions {
    return {
      secureContext: this.material.context,
      servername: "",
      // Not called for a TLS session that goes on: it was, when that began.
      checkServerIdentity: (_host: string, certificate: PeerCertificate) =>
        problemWith(certificate, expected),
    };
  }
}

export interface FleetRequest extends RequestOptions {
  /** Over a connection of its own. */
  isFresh?: boolean;
}

/**
 * A request to the host `expected`. Hosts without a certificate (of 0.1.0, or in a fleet without
 * TLS) have `http:` addresses. Throws when this program has none.
 */
export function requestTo(
  url: URL,
  { tls, expected }: { tls: FleetTls | undefined; expected: SpiffeIdentity },
  options: FleetRequest,
): ClientRequest {
  if (url.protocol !== "https:") {
    const { isFresh, ...rest } = options;
    return httpRequest({ ...destination(url), ...rest, agent: isFresh === true ? false : PLAIN });
  }
  if (tls === undefined)
    throw new Error(
      `${url.origin} is reached by TLS alone, and this program has no certificate: set TLS_CERT_FILE`,
    );
  return tls.request(url, expected, options);
}

/** Who is at the other end of a server's connection; undefined without TLS, and for strangers. */
export function peerOf(socket: unknown): SpiffeIdentity | undefined {
  if (!(socket instanceof TLSSocket) || !socket.authorized) return undefined;
  return identityIn(socket.getPeerX509Certificate()?.subjectAltName);
}

function destination(url: URL): { host: string; port: string } {
  return {
    host: url.hostname.replace(/^\[(.*)\]$/, "$1"),
    port: url.port || (url.protocol === "https:" ? "443" : "80"),
  };
}

function problemWith(
  { subjectaltname }: PeerCertificate,
  expected: SpiffeIdentity,
): Error | undefined {
  const found = identityIn(subjectaltname);
  if (found !== undefined && spiffeIdOf(found) === spiffeIdOf(expected)) return undefined;
  const who =
    found === undefined ? `no program of this fleet (${subjectaltname})` : spiffeIdOf(found);
  return new Error(`the certificate there is that of ${who}, not of ${spiffeIdOf(expected)}`);
}

async function materialIn({ certFile, keyFile, caFile }: TlsFiles): Promise<Material> {
  const [cert, key, ca] = await Promise.all([certFile, keyFile, caFile].map(read));
  const material = { cert: cert ?? "", key: key ?? "", ca: ca ?? "" };
  const problem = authoritiesProblem(material.ca);
  if (problem !== undefined) throw new Error(`${caFile} ${problem}`);
  try {
    return { ...material, context: createSecureContext({ ...material, minVersion: "TLSv1.3" }) };
  } catch (cause) {
    throw new Error(
      `${certFile}, ${keyFile} and ${caFile} cannot be used together: ${String(cause)}`,
      { cause },
    );
  }
}

/** OpenSSL takes what it can read of such a file, be it nothing, and says nothing of the rest. */
function authoritiesProblem(ca: string): string | undefined {
  const begun = ca.split("-----BEGIN CERTIFICATE-----").slice(1);
  if (begun.length === 0) return "has no certificate of an authority";
  // Of files that were put together without a newline between them, the first counts alone.
  if ((ca.match(/^-----BEGIN CERTIFICATE-----\s*$/gm) ?? []).length !== begun.length)
    return "has a certificate that does not begin on a line of its own";
  const isWhole = begun.every((text) => {
    try {
      return new X509Certificate(`-----BEGIN CERTIFICATE-----${text}`).ca;
    } catch {
      return false;
    }
  });
  return isWhole ? undefined : "has what is no whole certificate of an authority";
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
