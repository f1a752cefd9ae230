/** Statements as they go to the server, and the server's plans for them. */
import type { Database } from "@torpor/db";
import type postgres from "postgres";

type Parameters = postgres.ParameterOrJSON<never>[];

interface Client {
  unsafe(text: string, parameters?: Parameters, options?: object): unknown;
  begin(body: (tx: Client) => unknown): unknown;
}

/** A statement, and the name of the code that sent it. */
export interface Statement {
  of: string;
  text: string;
  parameters: Parameters;
}

const HAS_A_PLAN = /^\s*(?:select|insert|update|delete|with)\b/i;

/** Records every statement of `db` that has a plan, in transactions or not. */
export class Statements {
  readonly seen: Statement[] = [];
  private of = "";

  constructor(db: Database) {
    const { $client: client } = db as unknown as { $client: Client };
    this.watch(client);
    const begin = client.begin.bind(client);
    client.begin = (body) =>
      begin((tx) => {
        this.watch(tx);
        return body(tx);
      });
  }

  /** Records the statements of `body` under this name. Returns their number. */
  async during(of: string, body: () => Promise<unknown>): Promise<number> {
    const before = this.seen.length;
    this.of = of;
    await body();
    return this.seen.length - before;
  }

  private watch(client: Client): void {
    const unsafe = client.unsafe.bind(client);
    client.unsafe = (text, parameters = [], options) => {
      if (HAS_A_PLAN.test(text)) this.seen.push({ of: this.of, text, parameters });
      return unsafe(text, parameters, options);
    };
  }
}

interface PlanNode {
  "Node Type": string;
  "Relation Name"?: string;
  Plans?: PlanNode[];
}

/**
 * Tables that the server would read from one end to the other. With `generic`, by the plan for all
 * values, which prepared statements may get; otherwise, by the plan for these values.
 */
export async function scannedTables(
  sql: postgres.Sql,
  { text, parameters }: Statement,
  generic: boolean,
): Promise<string[]> {
  const explained = generic
    ? await sql.unsafe(`EXPLAIN (FORMAT JSON, GENERIC_PLAN) ${text}`).simple()
    : await sql.unsafe(`EXPLAIN (FORMAT JSON) ${text}`, parameters);
  const [row] = explained as unknown as { "QUERY PLAN": { Plan: PlanNode }[] }[];
  return (row?.["QUERY PLAN"] ?? []).flatMap(({ Plan: plan }) => scansIn(plan));
}

function scansIn({
  "Node Type": type,
  "Relation Name": table = "",
  Plans: inner = [],
}: PlanNode): string[] {
  return [...(type === "Seq Scan" ? [table] : []), ...inner.flatMap(scansIn)];
}
