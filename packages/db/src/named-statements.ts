/**
 * Which statements get a name on the server. A named statement is parsed once for each connection
 * and then costs one round trip; one without a name is parsed each time, and costs two.
 *
 * The server keeps every named statement until its connection ends, so their number is bounded.
 * Statements of an organization (organization-scope.ts) have a text for each organization, and must
 * not take the room of those that everybody needs.
 */
import type postgres from "postgres";
import { OF_ORGANIZATION } from "./organization-scope.ts";

/** Some megabytes of each connection's memory on the server. */
const MAX_NAMED = { ofAll: 600, ofOrganizations: 300 };
/** No longer than a connection lives (the driver ends each after 30 to 60 minutes). */
const FORGET_AFTER_MS = 30 * 60_000;

const ofOrganization = new RegExp(OF_ORGANIZATION);

export class NamedStatements {
  private readonly isOn: boolean;
  private readonly max: typeof MAX_NAMED;
  private readonly named = { ofAll: new Set<string>(), ofOrganizations: new Set<string>() };
  private forgetAtMs = 0;

  /**
   * `isOn`: false with a pooler that gives each transaction another connection and keeps no names.
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

/** As `sql.unsafe`; whether the statement is named is decided here, whatever the caller says. */
export const unsafeNamed =
  (sql: Unsafe, names: NamedStatements): Unsafe["unsafe"] =>
  (text, parameters, options) =>
    sql.unsafe(text, parameters, { ...options, prepare: names.isNamed(text) });

/** As much of a transaction as drizzle uses. `options`: of its pool. */
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
