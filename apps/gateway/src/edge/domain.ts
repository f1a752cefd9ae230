/**
 * The edge for a domain with a wildcard DNS record: `{port}-{sandbox id}.{region}.vms.<domain>`.
 * One listener serves all names, and distinguishes them by the Host header. The SDKs'
 * getPreviewUrl() reads a port out of such a name, and writes another one into it.
 */
import { readFile, stat } from "node:fs/promises";
import type { IncomingMessage } from "node:http";
import type { Server as SecureServer } from "node:https";
import { findLivingSandbox } from "@torpor/db";
import { GUEST_AGENT_PORT, isSandboxId, type SandboxId } from "@torpor/contracts";
import { ApiError } from "../http/errors.ts";
import { requestIdOf } from "../http/request-id.ts";
import { type CarryDependencies, carryRequest, carryUpgrade } from "./carry.ts";
import type { Endpoint } from "./endpoint.ts";
import type { Edge } from "./edge.ts";
import { refuse, refuseUpgrade } from "./refusal.ts";
import { createEdgeServer, type EdgeServer } from "./server.ts";

interface TlsFiles {
  certFile: string;
  keyFile: string;
}

export interface DomainOptions extends CarryDependencies {
  domain: string;
  /** Connections of all clients together. */
  maxConnections: number;
  listen: { host: string; port: number };
  /** Scheme and port that clients see: a balancer may be in front of the gateways. */
  publicOrigin: { scheme: "http" | "https"; port: number };
  tls?: TlsFiles | undefined;
}

export class DomainEdge implements Edge {
  private readonly options: DomainOptions;
  private readonly edgeServer: EdgeServer;
  /** Version of the certificate in use. */
  private version: string;

  private constructor(options: DomainOptions, edgeServer: EdgeServer, version: string) {
    this.options = options;
    this.edgeServer = edgeServer;
    this.version = version;
  }

  /** Rejects when the address cannot be listened on, or the certificate cannot be read. */
  static async listen(options: DomainOptions): Promise<DomainEdge> {
    const { tls, listen } = options;
    const loaded = tls === undefined ? undefined : await load(tls);
    const edgeServer = createEdgeServer(
      {
        request: async (incoming, response) => {
          const endpoint = endpointOf(incoming, options);
          if (endpoint instanceof ApiError)
            refuse(incoming, response, endpoint, requestIdOf(incoming.headers));
          else await carryRequest(options, endpoint, incoming, response);
        },
        upgrade: async (incoming, socket, head) => {
          const endpoint = endpointOf(incoming, options);
          if (endpoint instanceof ApiError)
            refuseUpgrade(socket, endpoint, requestIdOf(incoming.headers));
          else await carryUpgrade(options, endpoint, incoming, socket, head);
        },
      },
      options,
      loaded?.context,
    );
    await new Promise<void>((resolve, reject) => {
      edgeServer.server.once("error", reject);
      edgeServer.server.listen({ ...listen, reusePort: true }, resolve);
    });
    edgeServer.server.on("error", (err) =>
      options.log.error({ err }, "listener of the edge failed to take a connection"),
    );
    return new DomainEdge(options, edgeServer, loaded?.version ?? "");
  }

  publicHost(sandbox: { id: SandboxId; region: string }): string {
    return this.previewOrigin(sandbox, GUEST_AGENT_PORT);
  }

  previewOrigin({ id, region }: { id: SandboxId; region: string }, guestPort: number): string {
    const { scheme, port } = this.options.publicOrigin;
    const isDefault = port === (scheme === "https" ? 443 : 80);
    return `${scheme}://${guestPort}-${id}.${labelOf(region)}.vms.${this.options.domain}${isDefault ? "" : `:${port}`}`;
  }

  /** Every name below the domain is served already. */
  hear(): boolean {
    return false;
  }

  /** Loads a renewed certificate. Rejects when it cannot be used; the old one stays. */
  async reconcile(): Promise<Record<string, number>> {
    const { tls, log } = this.options;
    if (tls === undefined || (await versionOf(tls)) === this.version) return { reloaded: 0 };
    const { context, version } = await load(tls);
    (this.edgeServer.server as SecureServer).setSecureContext(context);
    this.version = version;
    log.info({ certFile: tls.certFile }, "certificate of the edge renewed");
    return { reloaded: 1 };
  }

  drain(): Promise<void> {
    return this.edgeServer.drain();
  }

  close(): Promise<void> {
    this.edgeServer.shut();
    return Promise.resolve();
  }
}

/** The endpoint that a Host header names, or the error for the response when it names none. */
export function endpointOf(
  incoming: Pick<IncomingMessage, "headers">,
  { domain, publicOrigin }: Pick<DomainOptions, "domain" | "publicOrigin">,
): Endpoint | ApiError {
  const host = (incoming.headers.host ?? "").toLowerCase().replace(/:\d+$/, "");
  const suffix = `.vms.${domain}`;
  const [, portText = "", id = "", region = ""] =
    /^(\d{1,5})-([a-z0-9]+)\.([a-z0-9-]+)$/.exec(host.slice(0, -suffix.length)) ?? [];
  const port = Number(portText);
  if (!host.endsWith(suffix) || !isSandboxId(id) || port < 1 || port > 65_535) {
    return new ApiError(
      "RESOURCE_NOT_FOUND",
      `No sandbox is served under this name. Names have the form {port}-{sandbox id}.{region}${suffix}.`,
    );
  }
  return {
    name: host,
    port,
    scheme: publicOrigin.scheme,
    find: async (db) => {
      const view = await findLivingSandbox(db, id);
      return view !== undefined && labelOf(view.sandbox.region) === region ? view : undefined;
    },
  };
}

/** A region's name as part of a host name. */
function labelOf(region: string): string {
  return region.toLowerCase().replaceAll(/[^a-z0-9-]/g, "-");
}

async function load(
  files: TlsFiles,
): Promise<{ context: { cert: Buffer; key: Buffer }; version: string }> {
  // Read before the content: a change in between is seen in the next round.
  const version = await versionOf(files);
  return {
    context: { cert: await readFile(files.certFile), key: await readFile(files.keyFile) },
    version,
  };
}

async function versionOf({ certFile, keyFile }: TlsFiles): Promise<string> {
  const stats = await Promise.all([stat(certFile), stat(keyFile)]);
  return stats.map(({ mtimeMs, ino, size }) => `${mtimeMs} ${ino} ${size}`).join(" ");
}
