/**
 * This host's certificate, renewed over the bus with the key that the host joined with.
 *
 * HC1  After a power cut at any moment, the file has the old certificate or the new one; both are
 *      for the key beside it.
 * HC2  A new certificate replaces the old one only if every other program would accept it for this
 *      host.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { request, type Bus } from "@torpor/bus";
import { CertificateReply, decoder, type HostId, subjects } from "@torpor/contracts";
import {
  certificateProblems,
  type FleetTls,
  identityIn,
  isRenewalDue,
  validityOf,
} from "@torpor/identity";
import { type Logger, sleep, type WorkProblem } from "@torpor/service";
import { isNotFound, writeDurably } from "../host/files.ts";
import { REQUEST_FILE } from "../join/identity-files.ts";

const decodeReply = decoder(CertificateReply);
const REQUEST_LIMIT_MS = 10_000;
const LOOK_EVERY_MS = 60_000;
const ELSEWHERE = "this host did not join by a token, so whoever made its certificate renews it";

export interface CertificateOptions {
  hostId: HostId;
  tls: FleetTls;
  bus: Bus;
  signal: AbortSignal;
  log: Logger;
}

export class HostCertificate {
  private readonly options: CertificateOptions;
  private whyNot: string | undefined;

  constructor(options: CertificateOptions) {
    this.options = options;
  }

  problems(): WorkProblem[] {
    return certificateProblems(this.options.tls.certificate, this.whyNot);
  }

  /** Renews the certificate whenever that is due, until the signal aborts. */
  async run(): Promise<void> {
    const { tls, signal } = this.options;
    do {
      if (isRenewalDue(tls.certificate, Date.now())) await this.tryToRenew();
    } while (await sleep(LOOK_EVERY_MS, signal));
  }

  private async tryToRenew(): Promise<void> {
    const { tls, log } = this.options;
    const before = this.whyNot;
    this.whyNot = await this.renew().catch((error: unknown) => String(error));
    const { validTo } = tls.certificate;
    if (this.whyNot === undefined) log.info({ validTo }, "certificate renewed");
    // Tried every minute, logged once.
    else if (this.whyNot !== before)
      log.warn({ reason: this.whyNot, validTo }, "certificate not renewed");
  }

  /** Returns why the certificate was not renewed; undefined if it was. */
  private async renew(): Promise<string | undefined> {
    const { hostId, tls, bus } = this.options;
    const { certFile, keyFile, caFile } = tls.files;
    const certificateRequest = await requestBeside(keyFile);
    if (certificateRequest === undefined) return ELSEWHERE;
    const question = { type: "certificate", version: 1, hostId, certificateRequest } as const;
    const reply = await request(bus, subjects.request(hostId, question.type), question, {
      timeoutMs: REQUEST_LIMIT_MS,
      decode: decodeReply,
    });
    if (reply.kind === "no_answer")
      return `no gateway that has the fleet's authority answered in time: ${String(reply.cause)}`;
    const { granted, certificate, reason } = reply.value;
    if (!granted || certificate === undefined) return reason ?? "it was refused without a reason";
    const [keyPem, caPem] = await Promise.all([keyFile, caFile].map(readText));
    const problem = problemWith(certificate, { hostId, keyPem, caPem });
    if (problem !== undefined) return `what came is not used: ${problem}`;
    await writeDurably(certFile, certificate);
    await tls.reload();
    return undefined;
  }
}

/** The request that this host signed when it joined; undefined if it joined in another way. */
async function requestBeside(keyFile: string): Promise<string | undefined> {
  try {
    return await readText(join(dirname(keyFile), REQUEST_FILE));
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

const readText = (file: string) => readFile(file, "utf8");

interface Expected {
  hostId: HostId;
  keyPem: string | undefined;
  caPem: string | undefined;
}

/** The reason why the certificate may not replace the current one; undefined if it may. */
function problemWith(pem: string, expected: Expected): string | undefined {
  const { hostId, keyPem = "", caPem = "" } = expected;
  const certificate = certificateIn(pem);
  if (certificate === undefined) return "it is no certificate";
  const who = identityIn(certificate.subjectAltName);
  if (who?.role !== "host" || who.hostId !== hostId)
    return `it is that of ${certificate.subjectAltName}`;
  if (!certificate.checkPrivateKey(createPrivateKey(keyPem))) return "it is for another key";
  if (!authoritiesIn(caPem).some((authority) => isIssuedBy(certificate, authority)))
    return "it is of no authority in TLS_CA_FILE";
  if (validityOf(certificate).notBeforeMs > Date.now())
    return "it is not valid yet: see the clocks of this host and of the gateways";
  if (isRenewalDue(certificate, Date.now()))
    return "it would have to be renewed at once: see the clocks of this host and of the gateways";
  return undefined;
}

function certificateIn(pem: string): X509Certificate | undefined {
  try {
    return new X509Certificate(pem);
  } catch {
    return undefined;
  }
}

const authoritiesIn = (pem: string): X509Certificate[] =>
  (pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []).map(
    (text) => new X509Certificate(text),
  );

const isIssuedBy = (certificate: X509Certificate, authority: X509Certificate) =>
  certificate.checkIssued(authority) && certificate.verify(authority.publicKey);
