/**
 * Brings the database of DATABASE_URL to the schema of this version; again and again, by several at once, without harm. It connects to Postgres itself, not to a pooler: while it works it
 * holds a lock of its session. With --api-key-file the key in that file becomes one of --organization (default: `default`), which is made if it is not there.
 */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { migrate, seedApiKey } from "../../packages/db/src/index.ts";

const { values } = parseArgs({ options: { "api-key-file": { type: "string" }, organization: { type: "string", default: "default" } } });
const url = process.env["DATABASE_URL"] ?? "";
const keyFile = values["api-key-file"];
if (!/^postgres(ql)?:\/\//.test(url)) {
  process.stderr.write("migrate: DATABASE_URL must be set to the database's postgres:// address\n");
  process.exit(2);
}
await migrate(url);
process.stdout.write("migrate: the schema is that of this version\n");
if (keyFile !== undefined) {
  await seedApiKey(url, { organization: values.organization, apiKey: readFileSync(keyFile, "utf8").trim() });
  process.stdout.write(`migrate: the API key belongs to ${values.organization}\n`);
}
