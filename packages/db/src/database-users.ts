/**
 * Database users of their own for gateways and schedulers: each may do with each table what it does
 * with it, and no more. The owner, who migrates, keeps every right, and policies do not bind it.
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

/** What a user does: Select, Insert, Update (and lock rows), Delete. */
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
  // Written by a trigger, with the rights of whoever moves a sandbox. They go with a retired host.
  hostChecks: { gateway: "SIUD", scheduler: "SIUD" },
  sandboxes: { gateway: "SIU", scheduler: "SU" },
  operations: { gateway: "SIU", scheduler: "SIU" },
  incarnations: { gateway: "SIU", scheduler: "SIU" },
  // A retired host's are dropped by whoever retires it.
  snapshots: { gateway: "SU", scheduler: "SIUD" },
  sandboxEvents: { gateway: "SI", scheduler: "SID" },
  outbox: { gateway: "SIU", scheduler: "SIUD" },
};

const OF_ANY = `starts_with(current_query(), '${EVERY_ORGANIZATION}')`;
const OF = `substring(current_query() FROM '${OF_ORGANIZATION}')::integer`;
const ofOrganization = (column: string) => `(SELECT ${OF_ANY}) OR ${column} = (SELECT ${OF})`;
/**
 * Which rows a gateway's statement is about; policies for the tables that hold what tenants have.
 */
const ROWS: Partial<Record<Table, string>> = {
  sandboxes: ofOrganization("organization_id"),
  operations: ofOrganization("organization_id"),
  organizationQuotas: ofOrganization("organization_id"),
  sandboxEvents: `(SELECT ${OF_ANY}) OR EXISTS (SELECT FROM sandboxes WHERE id = sandbox_id)`,
};

/** Passwords to set; a user that is there and is not among them keeps its own. */
export type Passwords = Partial<Record<DatabaseUser, string | undefined>>;

/**
 * Makes both users, if they are not there, and gives them their rights in this database. Repeating
 * it changes nothing. The user of `ownerUrl` owns the tables, and may make users where one is
 * missing.
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

/** After a migration: rights to tables that are new. Nothing where there are no such users. */
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
  // One at a time: several databases of one server share their users.
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
    // Each takes the whole table for a moment, and is there to stay.
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
