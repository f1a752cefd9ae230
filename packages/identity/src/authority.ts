/**
 * The fleet's certificate authority, for fleets without one of their own: a key, its certificate,
 * and certificates for hosts, gateways and servers.
 */
import "reflect-metadata";
import { createHash, createPrivateKey, webcrypto } from "node:crypto";
import { isIP } from "node:net";
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  Pkcs10CertificateRequest,
  Pkcs10CertificateRequestGenerator,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { type SpiffeIdentity, spiffeIdOf } from "./spiffe.ts";

const KEYS = { name: "ECDSA", namedCurve: "P-256" } as const;
const SIGNING = { name: "ECDSA", hash: "SHA-256" } as const;
const DAY_MS = 86_400_000;
const AUTHORITY_DAYS = 3_650;
/** Certificates are valid from before they are made, because clocks differ a little. */
const BACKDATED_MS = 3_600_000;
/** Bytes of a serial number; RFC 5280 allows 20. */
const SERIAL_BYTES = 16;
const NAME_DIGITS = 8;

export interface KeyAndCertificate {
  certificatePem: string;
  keyPem: string;
}

export interface CertificateSubject {
  /** Identity of a program of the fleet. */
  identity?: SpiffeIdentity;
  /** DNS names and IP addresses by which clients of a server reach it. */
  addresses?: string[];
  days: number;
}

/** Makes an authority. Its key can impersonate every host and every gateway. */
export async function createAuthority(): Promise<KeyAndCertificate> {
  const keys = await webcrypto.subtle.generateKey(KEYS, true, ["sign", "verify"]);
  const serial = serialNumber();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: serial,
    // A unique name, because programs look authorities up by name.
    name: `CN=Torpor fleet authority ${serial.slice(0, NAME_DIGITS)}`,
    notBefore: new Date(Date.now() - BACKDATED_MS),
    notAfter: new Date(Date.now() + AUTHORITY_DAYS * DAY_MS),
    signingAlgorithm: SIGNING,
    keys,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return {
    certificatePem: `${certificate.toString("pem")}\n`,
    keyPem: await pemOf(keys.privateKey),
  };
}

/** A key and a certificate request without an identity: the authority assigns the identity. */
export async function createRequest(): Promise<{ requestPem: string; keyPem: string }> {
  const keys = await webcrypto.subtle.generateKey(KEYS, true, ["sign", "verify"]);
  const request = await Pkcs10CertificateRequestGenerator.create({
    name: "CN=torpor",
    keys,
    signingAlgorithm: SIGNING,
  });
  return { requestPem: `${request.toString("pem")}\n`, keyPem: await pemOf(keys.privateKey) };
}

/**
 * SHA-256, hex, of the public key in a certificate request; undefined when the text is no request,
 * or is not signed by its key.
 */
export async function keyIn(requestPem: string): Promise<string | undefined> {
  const request = await verified(requestPem);
  if (request === undefined) return undefined;
  return createHash("sha256").update(new Uint8Array(request.publicKey.rawData)).digest("hex");
}

export class Authority {
  readonly certificatePem: string;
  private readonly certificate: X509Certificate;
  private readonly key: webcrypto.CryptoKey;

  private constructor(certificate: X509Certificate, key: webcrypto.CryptoKey) {
    this.certificate = certificate;
    this.certificatePem = `${certificate.toString("pem")}\n`;
    this.key = key;
  }

  /** Rejects unless the two are an authority's certificate and key (ECDSA, P-256, PEM). */
  static async open({ certificatePem, keyPem }: KeyAndCertificate): Promise<Authority> {
    const certificate = new X509Certificate(certificatePem);
    // OpenSSL also writes an older format of keys, which Web Crypto does not read.
    const der = createPrivateKey(keyPem).export({ type: "pkcs8", format: "der" });
    const key = await webcrypto.subtle.importKey("pkcs8", new Uint8Array(der), KEYS, false, [
      "sign",
    ]);
    return new Authority(certificate, key);
  }

  /** Uses only the request's key. Undefined: no request, or not signed by its key. */
  async certify(requestPem: string, subject: CertificateSubject): Promise<string | undefined> {
    const request = await verified(requestPem);
    return request === undefined ? undefined : await this.sign(request.publicKey, subject);
  }

  /** Makes a key and its certificate, for programs on this machine. */
  async issue(subject: CertificateSubject): Promise<KeyAndCertificate> {
    const keys = await webcrypto.subtle.generateKey(KEYS, true, ["sign", "verify"]);
    return {
      certificatePem: await this.sign(keys.publicKey, subject),
      keyPem: await pemOf(keys.privateKey),
    };
  }

  private async sign(
    publicKey: Parameters<typeof SubjectKeyIdentifierExtension.create>[0],
    subject: CertificateSubject,
  ): Promise<string> {
    const { identity, addresses = [], days } = subject;
    const names = [
      ...(identity === undefined ? [] : [{ type: "url" as const, value: spiffeIdOf(identity) }]),
      ...addresses.map((value) => ({
        type: isIP(value) === 0 ? ("dns" as const) : ("ip" as const),
        value,
      })),
    ];
    const certificate = await X509CertificateGenerator.create({
      serialNumber: serialNumber(),
      subject: `CN=${identity === undefined ? "torpor server" : `torpor ${identity.role}`}`,
      issuer: this.certificate.subject,
      notBefore: new Date(Date.now() - BACKDATED_MS),
      notAfter: new Date(Date.now() + days * DAY_MS),
      signingAlgorithm: SIGNING,
      publicKey,
      signingKey: this.key,
      extensions: [
        new BasicConstraintsExtension(false, undefined, true),
        new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
        new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth]),
        new SubjectAlternativeNameExtension(names),
        // The key of the signing authority, needed while one authority replaces another.
        await AuthorityKeyIdentifierExtension.create(this.certificate.publicKey),
      ],
    });
    return `${certificate.toString("pem")}\n`;
  }
}

async function verified(requestPem: string): Promise<Pkcs10CertificateRequest | undefined> {
  try {
    const request = new Pkcs10CertificateRequest(requestPem);
    return (await request.verify()) ? request : undefined;
  } catch {
    return undefined;
  }
}

async function pemOf(key: webcrypto.CryptoKey): Promise<string> {
  const pem = PemConverter.encode(await webcrypto.subtle.exportKey("pkcs8", key), "PRIVATE KEY");
  return `${pem}\n`;
}

function serialNumber(): string {
  const bytes = webcrypto.getRandomValues(new Uint8Array(SERIAL_BYTES));
  // A positive number without leading zeros, as DER requires.
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return Buffer.from(bytes).toString("hex");
}
