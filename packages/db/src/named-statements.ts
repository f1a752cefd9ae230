/**
 * Decides which statements are prepared under a name. The server parses a named statement once per
 * connection, and then a call costs one round trip. The server parses an unnamed statement on each
 * call, which costs two round trips.
 *
 * The server keeps every named statement until its connection ends, so their number is bounded.
 * Statements of an organization (organization-scope.ts) have one text per organization, and must
 * not displace the statements that are common to all.
 */
import type postgres from "postgres";
import { OF_ORGANIZATION } from "./organization-scope.ts";

/** Together, some megabytes of server memory per connection. */
const MAX_NAMED = { ofAll: 600, ofOrganizations: 300 };
/** At most the lifetime of a connection: the driver ends each after 30 to 60 minutes. */
const FORGET_AFTER_MS = 30 * 60_000;

const ofOrganization = new RegExp(OF_ORGANIZATION);

export class NamedStatements {
  private readonly isOn: boolean;
  private readonly max: typeof MAX_NAMED;
  private readonly named = { ofAll: new Set<string>(), ofOrganizations: new Set<string>() };
  private forgetAtMs = 0;

  /**
   * `isOn`: false for a pooler that gives each transaction another connection and keeps no names.
   */
  constructor(isOn: boolean, max = MAX_NAMED) {
    this.isOn = isOn;
    this.max = max;
  }

  isNamed(text: string, nowMs = performance.now()): boolean {
    if (!this.isOn) return false;
    if (nowMs >= this.forgetAtMs) this.forget(nowMs);
    const kind = ofOrganization.test(text) ? "ofOrganizations" : "ofAll";
    const named = this.named[kind];
    if (named.has(text)) return true;
    if (named.size >= this.max[kind]) return false;
    named.add(text);
    return true;
  }

  private forget(nowMs: number): void {
    this.forgetAtMs = nowMs + FORGET_AFTER_MS;
    for (const named of Object.values(this.named)) named.clear();
  }
}

type Unsafe = Pick<postgres.Sql, "unsafe">;
type Transaction = Unsafe & Pick<postgres.TransactionSql, "savepoint">;

/** Like `sql.unsafe`, but `names` decides whether the statement is named, not the caller. */
export const unsafeNamed =
  (sql: Unsafe, names: NamedStatements): Unsafe["unsafe"] =>
  (text, parameters, options) =>
    sql.unsafe(text, parameters, { ...options, prepare: names.isNamed(text) });

/**
 * The part of a transaction that drizzle uses. `options`: the options of the transaction's pool.
 */
export function namedTransaction(
  tx: Transaction,
  names: NamedStatements,
  options: postgres.Sql["options"],
) {
  return {
    options,
    unsafe: unsafeNamed(tx, names),
    savepoint: (body: (inner: unknown) => unknown) =>
      tx.savepoint((inner) => body(namedTransaction(inner, names, options))),
  };
}
