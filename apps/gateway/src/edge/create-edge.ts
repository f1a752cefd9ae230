import { ConfigurationError } from "@torpor/service";
import type { GatewayConfig } from "../config.ts";
import type { OpenFiles } from "../open-files.ts";
import type { CarryDependencies } from "./carry.ts";
import { DomainEdge } from "./domain.ts";
import type { Edge } from "./edge.ts";
import { LoopbackEdge } from "./loopback.ts";

/**
 * The edge of the configuration. Rejects when the configuration contradicts itself, or a listener
 * cannot be opened.
 */
export async function createEdge(
  config: GatewayConfig,
  files: OpenFiles,
  deps: CarryDependencies,
): Promise<Edge> {
  const {
    PUBLIC_DOMAIN: domain,
    EDGE_TLS_CERT_FILE: certFile,
    EDGE_TLS_KEY_FILE: keyFile,
  } = config;
  if ((certFile === undefined) !== (keyFile === undefined))
    throw new ConfigurationError(
      "EDGE_TLS_CERT_FILE and EDGE_TLS_KEY_FILE belong together: set both or none",
    );
  const maxConnections = files.connections;
  if (domain === undefined)
    return await LoopbackEdge.listen({
      ...deps,
      port: config.EDGE_PORT,
      maxConnections,
      previewFiles: files.previews,
    });
  const scheme = config.EDGE_PUBLIC_SCHEME ?? (certFile === undefined ? "http" : "https");
  return await DomainEdge.listen({
    ...deps,
    domain,
    maxConnections,
    listen: { host: config.EDGE_DOMAIN_HOST, port: config.EDGE_DOMAIN_PORT },
    publicOrigin: { scheme, port: config.EDGE_PUBLIC_PORT ?? config.EDGE_DOMAIN_PORT },
    ...(certFile === undefined || keyFile === undefined ? {} : { tls: { certFile, keyFile } }),
  });
}
