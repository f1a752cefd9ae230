/**
 * Job queues in Postgres, each used as in its own documentation. A job is stored, taken by a worker
 * in the same process, which does nothing, and ended; each of the three steps is durable.
 */
import { randomUUID } from "node:crypto";
import { EventEmitter } from "node:events";
import { sleep } from "@torpor/service";
import postgres from "postgres";

/** Runs one job, from storing it to its end. */
export type DoJob = () => Promise<void>;

const CONNECTIONS = 20;
const QUEUE = "noop";

export const PEERS: Readonly<Record<string, (databaseUrl: string) => Promise<DoJob>>> = {
  "graphile-worker": graphileWorker,
  "pg-boss": pgBoss,
  "bare statements": bareStatements,
};

/** Waiters for the end of a job, by its id. The end may come before the wait. */
class Ends {
  private readonly waiting = new Map<string, () => void>();
  private readonly early = new Set<string>();

  ended(id: string): void {
    const wake = this.waiting.get(id);
    if (wake === undefined) this.early.add(id);
    else wake();
    this.waiting.delete(id);
  }

  async of(id: string): Promise<void> {
    if (this.early.delete(id)) return;
    await new Promise<void>((resolve) => this.waiting.set(id, resolve));
  }
}

const GRAPHILE_CONCURRENCY = 10;

/** Woken by LISTEN. */
async function graphileWorker(databaseUrl: string): Promise<DoJob> {
  const { makeWorkerUtils, run } = await import("graphile-worker");
  const ends = new Ends();
  const events = new EventEmitter();
  events.on("job:complete", ({ job }: { job: { id: string } }) => ends.ended(job.id));
  const connection = { connectionString: databaseUrl, maxPoolSize: CONNECTIONS };
  const utils = await makeWorkerUtils(connection);
  await utils.migrate();
  const taskList = { [QUEUE]: async () => {} };
  await run({ ...connection, concurrency: GRAPHILE_CONCURRENCY, taskList, events });
  return async () => ends.of((await utils.addJob(QUEUE, {})).id);
}

const BOSS_FETCHES_AT_ONCE = 2;
const BOSS_BATCH = 32;
const BOSS_POLL_MS = 500;

/**
 * By itself, pg-boss only polls. Here each send is followed at once by a fetch of all waiting jobs.
 */
async function pgBoss(databaseUrl: string): Promise<DoJob> {
  const { PgBoss } = await import("pg-boss");
  const boss = new PgBoss({ connectionString: databaseUrl, max: CONNECTIONS });
  boss.on("error", (error: unknown) => process.stderr.write(`pg-boss: ${String(error)}\n`));
  await boss.start();
  await boss.createQueue(QUEUE);
  const ends = new Ends();
  let fetching = 0;
  const work = async () => {
    if (fetching >= BOSS_FETCHES_AT_ONCE) return;
    fetching += 1;
    try {
      for (;;) {
        const jobs = await boss.fetch(QUEUE, { batchSize: BOSS_BATCH });
        if (jobs.length === 0) return;
        await boss.complete(
          QUEUE,
          jobs.map(({ id }) => id),
        );
        for (const { id } of jobs) ends.ended(id);
      }
    } finally {
      fetching -= 1;
    }
  };
  void (async () => {
    while (await sleep(BOSS_POLL_MS, new AbortController().signal)) await work();
  })();
  return async () => {
    const id = randomUUID();
    await boss.send(QUEUE, {}, { id });
    void work();
    await ends.of(id);
  };
}

/** No queue: the minimum with the same three commits. */
async function bareStatements(databaseUrl: string): Promise<DoJob> {
  const sql = postgres(databaseUrl, { max: CONNECTIONS, onnotice: () => {} });
  await sql`
    CREATE TABLE IF NOT EXISTS jobs (id bigserial PRIMARY KEY, status text NOT NULL, payload jsonb,
      created_at timestamptz DEFAULT now(), ended_at timestamptz)`;
  return async () => {
    const [row] =
      await sql`INSERT INTO jobs (status, payload) VALUES ('waiting', '{}') RETURNING id`;
    const id = String(row?.["id"]);
    await sql`UPDATE jobs SET status = 'executing' WHERE id = ${id} AND status = 'waiting'`;
    await sql`UPDATE jobs SET status = 'ended', ended_at = now() WHERE id = ${id}`;
  };
}
