/**
 * More concurrent creates than two hosts have room for, compared with as many in a row as there is
 * room for. The hosts' concurrent starts share the machine's processors, so the time of the row
 * divided by their number is what the crowd would take without any loss.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { benchDir, startBenchFleet } from "@torpor/bench";

export interface CrowdOptions {
  root: string;
  imagesDir: string;
  creates: number;
  /** Sandboxes that fit on the two hosts. */
  room: number;
  startsAtOncePerHost: number;
  signal: AbortSignal;
  say: (line: string) => void;
}

export interface CrowdMeasure {
  creates: number;
  room: number;
  startsAtOnce: number;
  /** Time of `room` creates, one after the other. */
  rowMs: number;
  /** From the first request of the crowd until `room` sandboxes run. */
  crowdMs: number;
  /** crowdMs, divided by rowMs / startsAtOnce. */
  ratio: number;
  running: number;
  /** Responses with 429: "try again later", or "no room". */
  told: number;
  /** Messages of all other errors. */
  failed: string[];
}

const HOSTS = 2;
const SANDBOX_MIB = 512;
const DISK_MIB = 2_048;
const REQUEST_LIMIT_MS = 120_000;
/** A client of the crowd gives up after this time. */
const PATIENCE_MS = 300_000;

export async function measureCrowd(options: CrowdOptions): Promise<CrowdMeasure> {
  const { root, imagesDir, room, startsAtOncePerHost, signal, say } = options;
  const perHost = Math.ceil(room / HOSTS);
  const hostEnv = {
    CAPACITY_VCPU: String(perHost),
    CAPACITY_MEMORY_MIB: String(perHost * SANDBOX_MIB),
    CAPACITY_DISK_MIB: String(perHost * DISK_MIB),
    STARTS_AT_ONCE: String(startsAtOncePerHost),
  };
  const started = await startBenchFleet(
    { root, dir: benchDir(root, "crowd") },
    { imagesDir, hosts: HOSTS, hostEnv },
    signal,
  );
  const { url, apiKey } = started.fleet.state;
  try {
    const api = new BenchClient(url, apiKey, signal);
    say(`${room} creates in a row`);
    const rowMs = await inARow(api, room);
    say(`${options.creates} at once`);
    const crowd = await atOnce(api, options.creates, room);
    const startsAtOnce = HOSTS * startsAtOncePerHost;
    const ratio = crowd.crowdMs / (rowMs / startsAtOnce);
    return { creates: options.creates, room, startsAtOnce, rowMs, ratio, ...crowd };
  } finally {
    await started.close();
  }
}

/** Deletes the sandboxes afterwards, outside the measured time. */
async function inARow(api: BenchClient, room: number): Promise<number> {
  const startedAt = performance.now();
  const ids: string[] = [];
  for (let made = 0; made < room; made += 1) {
    const answer = await api.create();
    if (answer.id === undefined)
      throw new Error(`a create in a row was answered ${answer.status}: ${answer.message}`);
    ids.push(answer.id);
  }
  const rowMs = performance.now() - startedAt;
  await Promise.all(ids.map((id) => api.delete(id)));
  return rowMs;
}

async function atOnce(api: BenchClient, creates: number, room: number) {
  const startedAt = performance.now();
  let [running, told, crowdMs] = [0, 0, Number.NaN];
  const failed: string[] = [];
  // Each client retries when the response says so, as the SDKs do, while there may be room.
  const client = async () => {
    while (running < room && performance.now() - startedAt < PATIENCE_MS) {
      const answer = await api.create();
      if (answer.id !== undefined) {
        running += 1;
        if (running === room) crowdMs = performance.now() - startedAt;
        return;
      }
      if (answer.status !== 429) {
        failed.push(`${answer.status} ${answer.message}`);
        return;
      }
      told += 1;
      // Without Retry-After, there is no room and none is expected.
      if (answer.retryAfterS === undefined) return;
      await sleep(answer.retryAfterS * 1000);
    }
  };
  await Promise.all(Array.from({ length: creates }, client));
  return { running, told, crowdMs, failed };
}

interface Answer {
  status: number;
  id?: string;
  message: string;
  retryAfterS?: number;
}

class BenchClient {
  private readonly url: string;
  private readonly apiKey: string;
  private readonly signal: AbortSignal;

  constructor(url: string, apiKey: string, signal: AbortSignal) {
    this.url = url;
    this.apiKey = apiKey;
    this.signal = signal;
  }

  async create(): Promise<Answer> {
    const { status, headers, body } = await this.call("POST", "/v1/sandboxes", {
      template_name: "code-interpreter",
    });
    const retryAfter = headers.get("retry-after");
    return {
      status,
      message: String(body["message"]),
      ...(status === 201 ? { id: String(body["id"]) } : {}),
      ...(retryAfter === null ? {} : { retryAfterS: Number(retryAfter) }),
    };
  }

  async delete(id: string): Promise<void> {
    const { status, body } = await this.call("DELETE", `/v1/sandboxes/${id}`);
    if (status !== 200)
      throw new Error(`a delete was answered ${status}: ${String(body["message"])}`);
  }

  private async call(method: string, path: string, body?: object) {
    const response = await fetch(new URL(path, this.url), {
      method,
      headers: {
        "x-api-key": this.apiKey,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.any([this.signal, AbortSignal.timeout(REQUEST_LIMIT_MS)]),
    });
    const { status, headers } = response;
    return { status, headers, body: (await response.json()) as Record<string, unknown> };
  }
}
