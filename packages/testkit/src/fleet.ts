/** A whole fleet of simulated hosts for one test file, on free ports, removed with it. */
import { chmod, glob, mkdir, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ApiRefusal, type Client, createClient, type Terms } from "@torpor/client";
import type {
  CreateSandboxBody,
  EventResource,
  HostResource,
  SandboxResource,
} from "@torpor/contracts";
import { Fleet, FLEET_SETTINGS, type FleetOptions } from "@torpor/fleet";
import { type ApiAnswer, answerOf } from "./api-answer.ts";
import { smallFilesDir, tempDir, until } from "./basics.ts";
import { copyCluster, TEST_DATABASE_PASSWORD } from "./cluster.ts";
import { keepFiles, keepRows, registerEvidence } from "./evidence.ts";
import { callGuest } from "./guest.ts";
import { ROOT } from "./root.ts";
import { makeSimulatedImage, SIMULATED_TEMPLATE } from "./simulated-image.ts";
import { recordLeftover } from "./test-run/leftovers.ts";

const CALL_LIMIT_MS = 90_000;

export interface ApiRequest {
  body?: unknown;
  /** Sent unchanged, instead of `body`. */
  rawBody?: string;
  headers?: Record<string, string>;
  /** Default: the fleet's key; null: no key. */
  apiKey?: string | null;
  limitMs?: number;
}

export class TestFleet implements AsyncDisposable {
  readonly fleet: Fleet;
  private readonly dispose: () => Promise<void>;

  constructor(fleet: Fleet, dispose: () => Promise<void>) {
    this.fleet = fleet;
    this.dispose = dispose;
  }

  get url(): string {
    return this.fleet.state.url;
  }

  get apiKey(): string {
    return this.fleet.state.apiKey;
  }

  /** The public API as the fleet's own key uses it. A refusal rejects with `ApiRefusal`. */
  get client(): Client {
    return this.clientOf(this.apiKey);
  }

  /** The public API as another key uses it. */
  clientOf(apiKey: string): Client {
    return createClient({ baseUrl: this.url, apiKey, limitMs: CALL_LIMIT_MS });
  }

  /** Creates a sandbox of the template that each fleet has. Resolves once the sandbox runs. */
  async createSandbox(given: CreateSandboxBody = {}, terms?: Terms): Promise<SandboxResource> {
    return await this.client.sandboxes.create(
      { template_name: SIMULATED_TEMPLATE, ...given },
      terms,
    );
  }

  /** Deletes all sandboxes, as far as that is not refused. */
  async deleteSandboxes(): Promise<void> {
    for (const { id } of await Array.fromAsync(this.client.sandboxes.list()))
      await this.client.sandboxes.delete(id).catch(undefinedIfRefused);
  }

  /** All events of the sandbox, oldest first. */
  async events(id: string): Promise<EventResource[]> {
    return await Array.fromAsync(this.client.sandboxes.events(id));
  }

  async hosts(): Promise<HostResource[]> {
    return await Array.fromAsync(this.client.hosts.list());
  }

  /** Polls the sandbox until `is` holds. A refusal counts as not yet. */
  async untilSandbox(
    what: string,
    id: string,
    is: (seen: SandboxResource) => boolean,
    limitMs?: number,
  ): Promise<SandboxResource> {
    const look = async () => {
      const seen = await this.client.sandboxes.get(id).catch(undefinedIfRefused);
      return seen !== undefined && is(seen) ? seen : undefined;
    };
    return await until(what, look, limitMs);
  }

  /** Polls the host until `is` holds. A refusal counts as not yet. */
  async untilHost(
    what: string,
    id: string,
    is: (seen: HostResource) => boolean,
    limitMs?: number,
  ): Promise<HostResource> {
    const look = async () => {
      const seen = await this.client.hosts.get(id).catch(undefinedIfRefused);
      return seen !== undefined && is(seen) ? seen : undefined;
    };
    return await until(what, look, limitMs);
  }

  /** One call of the public API, for tests of statuses; parses the body for any status. */
  async call(method: string, path: string, request: ApiRequest = {}): Promise<ApiAnswer> {
    const { apiKey = this.apiKey, limitMs = CALL_LIMIT_MS } = request;
    const text =
      request.rawBody ?? (request.body === undefined ? undefined : JSON.stringify(request.body));
    const response = await fetch(new URL(path, this.url), {
      method,
      headers: {
        ...(apiKey === null ? {} : { "x-api-key": apiKey }),
        ...(text === undefined ? {} : { "content-type": "application/json" }),
        ...request.headers,
      },
      ...(text === undefined ? {} : { body: text }),
      signal: AbortSignal.timeout(limitMs),
    });
    return await answerOf(response);
  }

  /** One call of the agent in a sandbox, for tests of statuses. */
  async guest(...call: Parameters<typeof callGuest>): Promise<ApiAnswer> {
    return await callGuest(...call);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.fleet.down({ isDiscarded: true });
    await this.dispose();
  }
}

/** For a `catch` where a refusal means "not yet": any other error stays an error. */
export function undefinedIfRefused(error: unknown): undefined {
  if (!(error instanceof ApiRefusal)) throw error;
}

export async function startTestFleet(options: Partial<FleetOptions> = {}): Promise<TestFleet> {
  // Settings of the developer's own fleet in the shell, such as a bucket.
  for (const name of FLEET_SETTINGS) delete process.env[name];
  await using made = new AsyncDisposableStack();
  const dir = made.use(await tempDir());
  await chmod(dir.path, 0o711);
  const imagesDir = join(dir.path, "images");
  await mkdir(imagesDir);
  const fleetDir = join(dir.path, "fleet");
  recordLeftover({ kind: "fleet", name: fleetDir });
  if (options.imagesDir === undefined) await makeSimulatedImage(imagesDir);
  await layDatabase(fleetDir, made);
  const say =
    process.env["TORPOR_TEST_LOG"] === undefined
      ? () => {}
      : (line: string) => process.stderr.write(`${line}\n`);
  const fleet = await Fleet.start(
    {
      root: ROOT,
      dir: fleetDir,
      imagesDir,
      hosts: 2,
      gateways: 1,
      schedulers: 2,
      driver: "simulated",
      gatewayPort: 0,
      edgePort: 0,
      isDurable: false,
      hostEnv: {},
      ...options,
    },
    say,
  );
  const evidence = registerEvidence("fleet", async (to) => {
    await keepFiles(to, [join(fleetDir, "logs")]);
    await keepVmFiles(to, fleetDir);
    await keepRows(to, fleet.state.databaseUrl);
  });
  made.use(evidence);
  const kept = made.move();
  return new TestFleet(fleet, () => kept.disposeAsync());
}

/** Keeps records and logs of the virtual machines, not their disks and memory. */
async function keepVmFiles(to: string, fleetDir: string): Promise<void> {
  for await (const path of glob("hosts/*/{vm,trash}/*/{*.json,r*/*.log}", { cwd: fleetDir })) {
    await mkdir(join(to, dirname(path)), { recursive: true });
    await keepFiles(join(to, dirname(path)), [join(fleetDir, path)]);
  }
}

/**
 * Prepares the database as an earlier start of this fleet would have left it, with this password.
 */
async function layDatabase(fleetDir: string, made: AsyncDisposableStack): Promise<void> {
  const dir = made.use(await smallFilesDir());
  await mkdir(fleetDir, { recursive: true });
  await copyCluster(join(dir.path, "pg"));
  await symlink(join(dir.path, "pg"), join(fleetDir, "postgres"));
  await mkdir(join(fleetDir, "secrets"), { mode: 0o700 });
  await writeFile(join(fleetDir, "secrets/postgres"), TEST_DATABASE_PASSWORD, { mode: 0o600 });
}
