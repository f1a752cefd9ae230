/**
 * Identity of a host, in its own directory: keys that the host has made, the certificate that it
 * was given, and the settings that name them.
 *
 * IF1  Keys are on disk before any other program learns of them. A run that breaks off is continued
 *      by the next one with the same keys: the token that was used with them admits the host again.
 * - The directory in use is replaced in one piece, after the new one has connected to the servers,
 *   unless the fleet's certificates come from elsewhere.
 */
import { mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { createNatsKey, publicKeyOf } from "@torpor/bus";
import type { HostId } from "@torpor/contracts";
import type { TlsFiles } from "@torpor/identity";
import { createRequest } from "@torpor/identity/authority";
import { renameDurably, writeDurably } from "../host/files.ts";

export const IDENTITY_DIR = "/etc/torpor/identity";
/** Certificate request, kept to renew the certificate (../control/host-certificate.ts). */
export const REQUEST_FILE = "tls.csr";
const NAMES = {
  seed: "nats-seed",
  key: "tls.key",
  request: REQUEST_FILE,
  cert: "tls.crt",
  ca: "ca.crt",
  settings: "identity.env",
};

export interface Keys {
  seed: string;
  natsPublicKey: string;
  requestPem: string;
}

export interface Given {
  hostId: HostId;
  natsUrl: string;
  /** PEM; null: the fleet gives no certificates. */
  certificate: string | null;
  authorities: string | null;
}

export class IdentityFiles {
  private readonly dir: string;
  private readonly next: string;

  constructor(dir: string) {
    this.dir = dir;
    this.next = `${dir}.next`;
  }

  /** Keys of a run that broke off, else new ones. */
  async keys(): Promise<Keys> {
    await mkdir(this.next, { recursive: true, mode: 0o700 });
    const known = await this.keysOfBefore();
    if (known !== undefined) return known;
    const { requestPem, keyPem } = await createRequest();
    const { seed, publicKey } = createNatsKey();
    await this.write(NAMES.key, keyPem);
    await this.write(NAMES.request, requestPem);
    await this.write(NAMES.seed, seed);
    return { seed, natsPublicKey: publicKey, requestPem };
  }

  /** The seed is written last: if it exists, all keys exist. */
  private async keysOfBefore(): Promise<Keys | undefined> {
    const [seed, requestPem] = await Promise.all(
      [NAMES.seed, NAMES.request].map((name) =>
        readFile(join(this.next, name), "utf8").catch(() => undefined),
      ),
    );
    if (seed === undefined || requestPem === undefined) return undefined;
    return { seed, requestPem, natsPublicKey: publicKeyOf(seed) };
  }

  /** Writes the identity beside the keys. Returns its TLS files, which are not in use yet. */
  async keep({
    hostId,
    natsUrl,
    certificate,
    authorities,
  }: Given): Promise<{ tlsFiles: TlsFiles | undefined }> {
    const at = (name: string) => join(this.dir, name);
    const settings = [
      `HOST_ID=${hostId}`,
      `NATS_URL=${natsUrl}`,
      `NATS_SEED_FILE=${at(NAMES.seed)}`,
    ];
    if (authorities !== null) await this.write(NAMES.ca, authorities);
    if (certificate !== null && authorities !== null) {
      await this.write(NAMES.cert, certificate);
      settings.push(
        `TLS_CERT_FILE=${at(NAMES.cert)}`,
        `TLS_KEY_FILE=${at(NAMES.key)}`,
        `TLS_CA_FILE=${at(NAMES.ca)}`,
      );
    }
    await this.write(NAMES.settings, `${settings.join("\n")}\n`);
    if (certificate === null || authorities === null) return { tlsFiles: undefined };
    const [certFile, keyFile, caFile] = [NAMES.cert, NAMES.key, NAMES.ca].map((name) =>
      join(this.next, name),
    ) as [string, string, string];
    return { tlsFiles: { certFile, keyFile, caFile } };
  }

  /** Puts the new identity in use. */
  async take(): Promise<void> {
    const before = `${this.dir}.before`;
    await rm(before, { recursive: true, force: true });
    await renameDurably(this.dir, before).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error;
    });
    await renameDurably(this.next, this.dir);
    await rm(before, { recursive: true, force: true });
  }

  /** Settings of the identity in use. */
  get settingsFile(): string {
    return join(this.dir, NAMES.settings);
  }

  private async write(name: string, content: string): Promise<void> {
    await writeDurably(join(this.next, name), content);
  }
}
