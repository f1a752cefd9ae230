/** The three settings of a program's certificate, the same in all programs. */
import { ConfigurationError, type Logger, sleep } from "@torpor/service";
import { Type } from "typebox";
import { FleetTls, type TlsFiles } from "./fleet-tls.ts";

/** All or none. PEM files, read again within a minute after a change. */
export const TLS_SETTINGS = {
  /** This program's certificate, with a SPIFFE ID (docs/operate/security.md). */
  TLS_CERT_FILE: Type.Optional(Type.String()),
  TLS_KEY_FILE: Type.Optional(Type.String()),
  /** Authorities of the other programs, and of the NATS servers. */
  TLS_CA_FILE: Type.Optional(Type.String()),
};

type TlsSettings = { [Name in keyof typeof TLS_SETTINGS]?: string | undefined };

const LOOK_EVERY_MS = 60_000;

/** Undefined if none is set. Throws ConfigurationError if only some are set. */
export function tlsFilesIn(settings: TlsSettings): TlsFiles | undefined {
  const { TLS_CERT_FILE: certFile, TLS_KEY_FILE: keyFile, TLS_CA_FILE: caFile } = settings;
  if (certFile === undefined && keyFile === undefined && caFile === undefined) return undefined;
  if (certFile !== undefined && keyFile !== undefined && caFile !== undefined)
    return { certFile, keyFile, caFile };
  throw new ConfigurationError(
    "invalid configuration: TLS_CERT_FILE, TLS_KEY_FILE and TLS_CA_FILE belong together: set all three or none",
  );
}

/**
 * Reads the files, and again when they change, until the signal aborts. Rejects when they cannot be
 * used at the start.
 */
export async function openTls(
  settings: TlsSettings,
  { signal, log }: { signal: AbortSignal; log: Logger },
): Promise<FleetTls | undefined> {
  const files = tlsFilesIn(settings);
  if (files === undefined) return undefined;
  const tls = await FleetTls.load(files);
  void keepFresh(tls, signal, log);
  return tls;
}

async function keepFresh(tls: FleetTls, signal: AbortSignal, log: Logger): Promise<void> {
  while (await sleep(LOOK_EVERY_MS, signal)) {
    try {
      if (await tls.reload()) log.info({ validTo: tls.certificate.validTo }, "certificate renewed");
    } catch (err) {
      log.error(
        { err, validTo: tls.certificate.validTo },
        "renewed certificate could not be used; the one before stays in use",
      );
    }
  }
}
