/**
 * Mutual TLS between programs of the fleet, from three files: a certificate, its key, and the
 * certificates of the trusted authorities. The files are read again when they change, because
 * another program may renew them.
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
  /** Made once, because parsing keys and certificates costs more than a handshake. */
  context: SecureContext;
}

/** Number of hosts with kept connections. */
const KEPT_HOSTS = 4_096;
/**
 * How long a connection may be idle and still be reused, where the caller allows that. Short,
 * because nothing reports that a host has lost power.
 */
const KEPT_IDLE_MS = 1_000;
const KEPT_IDLE_CONNECTIONS = 64;
const KEEPING = { keepAlive: true, timeout: KEPT_IDLE_MS, maxFreeSockets: KEPT_IDLE_CONNECTIONS };
const PLAIN = new HttpAgent(KEEPING);

/** Agents for one host. Both resume its TLS sessions, so a new connection needs no signatures. */
interface HostAgents {
  /** A new connection for each request. */
  fresh: Agent;
  kept: Agent;
}

export class FleetTls {
  readonly files: TlsFiles;
  private material: Material;
  private version: string;
  /** Keyed by host and address; the last used at the end. */
  private readonly agents = new Map<string, HostAgents>();
  private readonly servers = new Set<Server>();

  private constructor(files: TlsFiles, material: Material, version: string) {
    this.files = files;
    this.material = material;
    this.version = version;
  }

  /** Rejects, naming the file at fault, when the files cannot be used. */
  static async load(files: TlsFiles): Promise<FleetTls> {
    const version = await versionOf(files);
    return new FleetTls(files, await materialIn(files), version);
  }

  /**
   * True if there were new files, which are used from now on. Rejects like `load`; then the old
   * files stay in use.
   */
  async reload(): Promise<boolean> {
    const version = await versionOf(this.files);
    if (version === this.version) return false;
    this.material = await materialIn(this.files);
    this.version = version;
    // The old agents' connections end when they are idle.
    this.agents.clear();
    for (const server of this.servers) server.setSecureContext(this.serverOptions());
    return true;
  }

  /** This program's own certificate. */
  get certificate(): X509Certificate {
    return new X509Certificate(this.material.cert);
  }

  /** Refuses clients without a certificate of a trusted authority. */
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

  /** Fails unless the other end is `expected`. `isFresh`: over a new connection. */
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
      // Not called for a resumed TLS session, because it was called when the session began.
      checkServerIdentity: (_host: string, certificate: PeerCertificate) =>
        problemWith(certificate, expected),
    };
  }
}

export interface FleetRequest extends RequestOptions {
  /** Use a new connection. */
  isFresh?: boolean;
}

/**
 * A request to the host `expected`. Hosts without a certificate (of 0.1.0, or in a fleet without
 * TLS) have `http:` addresses. Throws for an `https:` address when this program has no certificate.
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

/** Identity of a server's client; undefined without TLS, and for unknown clients. */
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

/** OpenSSL uses what it can read of such a file, even if that is nothing, and reports no error. */
function authoritiesProblem(ca: string): string | undefined {
  const begun = ca.split("-----BEGIN CERTIFICATE-----").slice(1);
  if (begun.length === 0) return "has no certificate of an authority";
  // If files were joined without a newline in between, only the first certificate counts.
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
