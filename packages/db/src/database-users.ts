/**
 * Separate database users for gateways and schedulers: each user has only the rights that its
 * program uses on each table. The owner, who migrates, keeps every right, and row-level policies do
 * not bind the owner.
 */
import { getTableName, is } from "drizzle-orm";
import { PgTable } from "drizzle-orm/pg-core";
import postgres from "postgres";
import { reached } from "./database-url.ts";
import { EVERY_ORGANIZATION, OF_ORGANIZATION } from "./organization-scope.ts";
import * as schema from "./schema.ts";

export const DATABASE_USERS = { gateway: "torpor_gateway", scheduler: "torpor_scheduler" } as const;
export type DatabaseUser = keyof typeof DATABASE_USERS;
const USERS = ["gateway", "scheduler"] as const satisfies DatabaseUser[];

/** Rights of a user: Select, Insert, Update (and lock rows), Delete. */
const VERBS = { S: "SELECT", I: "INSERT", U: "UPDATE", D: "DELETE" } as const;
type Rights = Record<DatabaseUser, string>;
type Table = keyof typeof schema;
const TABLES: Readonly<Record<Table, unknown>> = { ...schema };

const RIGHTS: Record<Table, Rights> = {
  organizations: { gateway: "SI", scheduler: "" },
  organizationQuotas: { gateway: "SIUD", scheduler: "" },
  apiKeys: { gateway: "SIU", scheduler: "" },
  auditEntries: { gateway: "SI", scheduler: "SD" },
  templates: { gateway: "SIU", scheduler: "S" },
  templateImages: { gateway: "SI", scheduler: "S" },
  hosts: { gateway: "SU", scheduler: "SIU" },
  leaseService: { gateway: "S", scheduler: "SIU" },
  hostAdmissions: { gateway: "SIU", scheduler: "S" },
  hostTokens: { gateway: "SIU", scheduler: "" },
  hostEvents: { gateway: "SI", scheduler: "SID" },
  drains: { gateway: "SIU", scheduler: "SIU" },
  drainSandboxes: { gateway: "SIU", scheduler: "SIU" },
  hostFindings: { gateway: "SU", scheduler: "SIUD" },
  hostInventoryParts: { gateway: "", scheduler: "SIUD" },
  // A trigger writes the rows with the rights of the program that moves the sandbox. The gateway
  // that retires a host deletes the host's rows.
  hostChecks: { gateway: "SIUD", scheduler: "SIUD" },
  sandboxes: { gateway: "SIU", scheduler: "SU" },
  operations: { gateway: "SIU", scheduler: "SIU" },
  incarnations: { gateway: "SIU", scheduler: "SIU" },
  // The gateway that retires a host drops the host's snapshots.
  snapshots: { gateway: "SU", scheduler: "SIUD" },
  sandboxEvents: { gateway: "SI", scheduler: "SID" },
  outbox: { gateway: "SIU", scheduler: "SIUD" },
};

const OF_ANY = `starts_with(current_query(), '${EVERY_ORGANIZATION}')`;
const OF = `substring(current_query() FROM '${OF_ORGANIZATION}')::integer`;
const ofOrganization = (column: string) => `(SELECT ${OF_ANY}) OR ${column} = (SELECT ${OF})`;
/** Rows that a gateway's statement may use: row-level policies of the tables with tenants' data. */
const ROWS: Partial<Record<Table, string>> = {
  sandboxes: ofOrganization("organization_id"),
  operations: ofOrganization("organization_id"),
  organizationQuotas: ofOrganization("organization_id"),
  sandboxEvents: `(SELECT ${OF_ANY}) OR EXISTS (SELECT FROM sandboxes WHERE id = sandbox_id)`,
};

/** Passwords to set; an existing user that is not listed keeps its password. */
export type Passwords = Partial<Record<DatabaseUser, string | undefined>>;

/**
 * Creates the missing users and grants both users their rights in this database. Idempotent. The
 * user of `ownerUrl` owns the tables; to create a missing user, the owner needs CREATEROLE.
 */
export async function setUpDatabaseUsers(ownerUrl: string, passwords: Passwords): Promise<void> {
  const { url, options } = reached(ownerUrl);
  const client = postgres(url, { ...options, max: 1, connect_timeout: 10, onnotice: () => {} });
  try {
    await client.begin(async (tx) => {
      for (const user of USERS) await makeUser(tx, DATABASE_USERS[user], passwords[user]);
      await secureRows(tx);
      await giveRights(tx);
    });
  } finally {
    await client.end({ timeout: 5 });
  }
}

/** Grants rights to new tables after a migration. Does nothing where the users are not set up. */
export async function renewDatabaseUsers(client: postgres.Sql): Promise<void> {
  const [secured] = await client`
    SELECT FROM pg_policies WHERE schemaname = 'public' AND tablename = 'sandboxes'
      AND policyname = ${DATABASE_USERS.gateway}`;
  if (secured === undefined) return;
  await client.begin(async (tx) => {
    await secureRows(tx);
    await giveRights(tx);
  });
}

async function makeUser(tx: postgres.TransactionSql, role: string, password: string | undefined) {
  // Serialized, because several databases of one server share their users.
  await tx`SELECT pg_advisory_xact_lock(hashtext(${role}))`;
  const [known] = await tx`SELECT FROM pg_roles WHERE rolname = ${role}`;
  if (known === undefined) await tx.unsafe(`CREATE ROLE ${role} LOGIN`);
  if (password === undefined) return;
  await tx.unsafe(`ALTER ROLE ${role} LOGIN PASSWORD '${password.replaceAll("'", "''")}'`);
}

async function secureRows(tx: postgres.TransactionSql): Promise<void> {
  for (const [table, rows] of Object.entries(ROWS) as [Table, string][]) {
    const name = tableName(table);
    const policies = await tx`
      SELECT policyname FROM pg_policies WHERE schemaname = 'public' AND tablename = ${name}`;
    // CREATE POLICY briefly locks the whole table, so existing policies are kept.
    const isThere = (policy: string) => policies.some(({ policyname }) => policyname === policy);
    const { gateway, scheduler } = DATABASE_USERS;
    if (!isThere(gateway))
      await tx.unsafe(`CREATE POLICY ${gateway} ON ${name} TO ${gateway} USING (${rows})`);
    if (!isThere(scheduler))
      await tx.unsafe(`CREATE POLICY ${scheduler} ON ${name} TO ${scheduler} USING (true)`);
    const [state] = await tx`SELECT relrowsecurity FROM pg_class WHERE oid = ${name}::regclass`;
    if (state?.["relrowsecurity"] !== true)
      await tx.unsafe(`ALTER TABLE ${name} ENABLE ROW LEVEL SECURITY`);
  }
}

async function giveRights(tx: postgres.TransactionSql): Promise<void> {
  for (const user of USERS) {
    const role = DATABASE_USERS[user];
    await tx.unsafe(`REVOKE ALL ON ALL TABLES IN SCHEMA public FROM ${role}`);
    await tx.unsafe(`GRANT USAGE ON SCHEMA public TO ${role}`);
    await tx.unsafe(`GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO ${role}`);
    for (const [table, rights] of Object.entries(RIGHTS) as [Table, Rights][]) {
      const verbs = rights[user].split("").map((letter) => VERBS[letter as keyof typeof VERBS]);
      if (verbs.length === 0) continue;
      await tx.unsafe(`GRANT ${verbs.join(", ")} ON ${tableName(table)} TO ${role}`);
    }
  }
}

function tableName(table: Table): string {
  const known = TABLES[table];
  if (!is(known, PgTable)) throw new Error(`${table} is no table`);
  return getTableName(known);
}
