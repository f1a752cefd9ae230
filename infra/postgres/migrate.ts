/**
 * Migrates the database of DATABASE_URL to the schema of this version. Repeated and concurrent runs
 * are safe. The script connects to Postgres directly, not through a pooler, because it holds a
 * session lock while it works.
 *
 * - --api-key-file: adds the key in that file to --organization (default: `default`), which is
 *   created if missing. With --operator, the key may manage hosts, keys and organizations too; this
 *   also applies to an existing key.
 * - --encrypt-env-vars: encrypts environment variables that are stored in plain text, or with one
 *   of ENV_ACCEPTED_KEY_FILES, with the key in ENV_KEY_FILE. Run this once all schedulers have the
 *   key.
 * - --database-users: creates the database users torpor_gateway and torpor_scheduler, with the
 *   passwords in --gateway-password-file and --scheduler-password-file; a user without a file keeps
 *   its password.
 * - --admit-hosts: lets hosts register that do not join by a token, because infra/nats makes their
 *   keys.
 */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import {
  DATABASE_USERS,
  hasOperatorKey,
  migrate,
  openDatabase,
  sealStoredEnvVars,
  seedApiKey,
  seedHostAdmissions,
  setUpDatabaseUsers,
} from "../../packages/db/src/index.ts";
import { configured, envelopeFrom, readSecret } from "../../packages/service/src/index.ts";

const { values } = parseArgs({
  options: {
    "api-key-file": { type: "string" },
    organization: { type: "string", default: "default" },
    operator: { type: "boolean", default: false },
    "admit-hosts": { type: "string", default: "" },
    "encrypt-env-vars": { type: "boolean", default: false },
    "database-users": { type: "boolean", default: false },
    "gateway-password-file": { type: "string" },
    "scheduler-password-file": { type: "string" },
  },
});
const url = process.env["DATABASE_URL"] ?? "";
const { "api-key-file": keyFile, organization, operator: isOperator } = values;
if (!/^postgres(ql)?:\/\//.test(url)) {
  process.stderr.write("migrate: DATABASE_URL must be set to the database's postgres:// address\n");
  process.exit(2);
}
if (isOperator && keyFile === undefined) {
  process.stderr.write("migrate: --operator is about a key: give --api-key-file too\n");
  process.exit(2);
}
const admitted = values["admit-hosts"].split(",").filter((hostId) => hostId !== "");
const unexpected = admitted.find((hostId) => !/^[a-z0-9][a-z0-9-]{0,62}$/.test(hostId));
if (unexpected !== undefined) {
  process.stderr.write(`migrate: --admit-hosts: "${unexpected}" is no host id\n`);
  process.exit(2);
}
const { ENV_KEY_FILE: envKeyFile, ENV_ACCEPTED_KEY_FILES: acceptedKeyFiles = "" } = process.env;
const encrypts = values["encrypt-env-vars"];
if (encrypts && envKeyFile === undefined) {
  process.stderr.write(
    "migrate: --encrypt-env-vars needs a key: set ENV_KEY_FILE to its file, as for schedulers\n",
  );
  process.exit(2);
}
const envelope = configured(() =>
  envelopeFrom(encrypts ? envKeyFile : undefined, acceptedKeyFiles),
);
const passwordFiles = {
  gateway: values["gateway-password-file"],
  scheduler: values["scheduler-password-file"],
};
const hasPasswords = Object.values(passwordFiles).some((file) => file !== undefined);
if (hasPasswords && !values["database-users"]) {
  process.stderr.write(
    "migrate: a password file is about a database user: give --database-users too\n",
  );
  process.exit(2);
}
const passwordIn = (file: string | undefined) =>
  file === undefined ? undefined : readSecret(file);
const passwords = configured(() => ({
  gateway: passwordIn(passwordFiles.gateway),
  scheduler: passwordIn(passwordFiles.scheduler),
}));
await migrate(url);
process.stdout.write("migrate: the schema is that of this version\n");
if (keyFile !== undefined) {
  const apiKey = readFileSync(keyFile, "utf8").trim();
  await seedApiKey(url, { organization, apiKey, isOperator });
  process.stdout.write(
    `migrate: the API key belongs to ${organization}${isOperator ? ", and is an operator's" : ""}\n`,
  );
}
if (admitted.length > 0) {
  await seedHostAdmissions(
    url,
    admitted.map((hostId) => ({ hostId, natsPublicKey: null })),
    "migrate.ts",
  );
  process.stdout.write(`migrate: ${admitted.join(", ")} may register\n`);
}
if (values["database-users"]) {
  await setUpDatabaseUsers(url, passwords);
  process.stdout.write(
    `migrate: ${Object.values(DATABASE_USERS).join(" and ")} have their rights\n`,
  );
}
if (encrypts) {
  const database = openDatabase(url, { maxConnections: 1 });
  try {
    const count = await sealStoredEnvVars(database.db, envelope);
    process.stdout.write(
      `migrate: environment variables of ${count} sandboxes were encrypted with key ${envelope.keyId}\n`,
    );
  } finally {
    await database.close();
  }
}
if (!(await hasOperatorKey(url))) {
  process.stdout.write(
    "migrate: no API key may manage hosts and keys: run this with --api-key-file FILE --operator, where FILE holds the key that is to\n",
  );
}
