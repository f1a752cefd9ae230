/**
 * Makes the certificates of a fleet that has no authority yet, in a directory:
 *
 *   node infra/tls/certify.ts --dir ./tls authority                ca.crt, ca.key
 *   node infra/tls/certify.ts --dir ./tls gateway                  gateway.crt, gateway.key
 *   node infra/tls/certify.ts --dir ./tls scheduler                scheduler.crt, scheduler.key
 *   node infra/tls/certify.ts --dir ./tls host host-1              host that joins without a token
 *   node infra/tls/certify.ts --dir ./tls server nats-1 10.0.0.11  NATS, Postgres or PgBouncer
 *
 * --days is the validity of a certificate (365). The script overwrites nothing: to renew a
 * certificate, move its files away first.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  Authority,
  createAuthority,
  type KeyAndCertificate,
  type CertificateSubject,
} from "../../packages/identity/src/authority.ts";

const HOST = /^[a-z0-9][a-z0-9-]{0,62}$/;
const ADDRESS = /^[A-Za-z0-9.:*-]+$/;
const MAX_DAYS = 3_650;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { dir: { type: "string", default: "" }, days: { type: "string", default: "365" } },
});
const [what = "", name = "", ...addresses] = positionals;
const days = Number(values.days);
if (values.dir === "") fail("--dir is missing: where the authority is, and certificates go");
if (!Number.isInteger(days) || days < 1 || days > MAX_DAYS)
  fail(`--days must be 1 to ${MAX_DAYS}, not "${values.days}"`);
mkdirSync(values.dir, { recursive: true, mode: 0o700 });

const [file, made] = await make();
write(`${file}.key`, made.keyPem, 0o600);
write(`${file}.crt`, made.certificatePem, 0o644);
process.stdout.write(`certify: ${join(values.dir, `${file}.crt`)} and its key were made\n`);

async function make(): Promise<[string, KeyAndCertificate]> {
  switch (what) {
    case "authority":
      return ["ca", await createAuthority()];
    case "gateway":
    case "scheduler":
      return [what, await issue({ identity: { role: what } })];
    case "host":
      if (!HOST.test(name)) fail(`"${name}" is no host id: lowercase letters, digits and dashes`);
      return [name, await issue({ identity: { role: "host", hostId: name } })];
    case "server": {
      const wrong = [name, ...addresses].find((address) => !ADDRESS.test(address));
      if (wrong !== undefined) fail(`"${wrong}" is no name or address of a server`);
      return [name, await issue({ addresses: [name, ...addresses] })];
    }
    default:
      return fail(
        `"${what}" is not one of authority, gateway, scheduler, host <id>, server <name> <address>…`,
      );
  }
}

async function issue(subject: Omit<CertificateSubject, "days">): Promise<KeyAndCertificate> {
  const read = (suffix: string) => {
    try {
      return readFileSync(join(values.dir, `ca.${suffix}`), "utf8");
    } catch (error) {
      return fail(
        `there is no authority in ${values.dir} (${(error as NodeJS.ErrnoException).code}): make it first, with \`authority\``,
      );
    }
  };
  const authority = await Authority.open({ certificatePem: read("crt"), keyPem: read("key") });
  return await authority.issue({ ...subject, days });
}

function write(to: string, content: string, mode: number): void {
  const path = join(values.dir, to);
  try {
    writeFileSync(path, content, { mode, flag: "wx" });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    fail(`${path} is there already: move it away to make another`);
  }
}

function fail(message: string): never {
  process.stderr.write(`certify: ${message}\n`);
  process.exit(2);
}
