/**
 * The files of infra/, tried out: NATS configurations that the server accepts, and a database that
 * is migrated to this version's schema.
 */
import { execFile } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import { createNatsKey, publicKeyOf } from "@torpor/bus";
import { findApiKey, findSandboxRow, inTransaction, openDatabase, openEnvVars } from "@torpor/db";
import { configFrom as gatewayConfig } from "../../apps/gateway/src/config.ts";
import { configFrom as schedulerConfig } from "../../apps/scheduler/src/config.ts";
import { findNatsServer } from "@torpor/fleet";
import { envelopeFrom } from "@torpor/service";
import {
  makeSandbox,
  moveSandbox,
  openTestDatabase,
  ROOT,
  startPostgres,
  tempDir,
} from "@torpor/testkit";
import { describe, expect, test } from "vitest";

const run = promisify(execFile);
const LIMIT_MS = 30_000;

interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

/** Nothing else of the tests' own environment. The compile cache avoids compiling again. */
const PLAIN = { PATH: process.env["PATH"], NODE_COMPILE_CACHE: process.env["NODE_COMPILE_CACHE"] };
const node = async (
  script: string,
  args: string[],
  env: Record<string, string> = {},
): Promise<Ran> =>
  await run(process.execPath, [join(ROOT, script), ...args], {
    env: { ...PLAIN, ...env },
    timeout: LIMIT_MS,
  }).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (error: Ran) => error,
  );
const configure = (args: string[]) => node("infra/nats/configure.ts", args);

describe("configure.ts", () => {
  const SERVERS = "nats-1=10.0.0.11,nats-2=10.0.0.12,nats-3=10.0.0.13";

  test("writes what nats-server takes, for each server of a cluster and for one by itself; secrets are made once and kept", async () => {
    await using dir = await tempDir();
    const secrets = join(dir.path, "secrets");
    const written = new Map<string, string>();
    for (const [name, servers] of [
      ["nats-1", SERVERS],
      ["nats-2", SERVERS],
      ["nats-3", SERVERS],
      ["alone", "alone=10.0.0.11"],
    ] as const) {
      const args = [
        "--name",
        name,
        "--servers",
        servers,
        "--hosts",
        "host-1,lab-1",
        "--secrets",
        secrets,
        "--store",
        join(dir.path, name),
      ];
      const { code, stdout, stderr } = await configure(args);
      expect([code, stderr]).toEqual([0, ""]);
      const file = join(dir.path, `${name}.conf`);
      writeFileSync(file, stdout);
      const checked = await run(await findNatsServer(ROOT), ["-t", "-c", file], {
        timeout: LIMIT_MS,
      });
      expect(checked.stdout + checked.stderr).toContain("is valid");
      written.set(name, stdout);
    }
    expect((await readdir(secrets)).toSorted()).toEqual([
      "control.seed",
      "host-host-1.seed",
      "host-lab-1.seed",
      "route",
    ]);
    expect(statSync(join(secrets, "control.seed")).mode & 0o777).toBe(0o600);
    const seed = readFileSync(join(secrets, "host-lab-1.seed"), "utf8");
    for (const text of written.values()) {
      expect(text).toContain(publicKeyOf(seed));
      expect(text).not.toContain(seed);
    }
    expect(written.get("nats-2")).toContain("torpor.v1.host.lab-1.obs.running");
    expect(written.get("nats-2")).toMatch(
      /listen: "10\.0\.0\.12:6222"[^]*nats-route:\/\/route:[0-9a-f]{64}@10\.0\.0\.13:6222/,
    );
    expect(written.get("alone")).not.toContain("cluster {");
    const one = ["--name", "a", "--servers", "a=10.0.0.11", "--secrets", secrets];
    const { stdout: mixed } = await configure([
      ...one,
      "--hosts",
      "h-1,h-2",
      "--shared-hosts",
      "h-2",
    ]);
    expect(mixed).toContain("HOST_h-1: {");
    expect(mixed).not.toContain("HOST_h-2: {");
    const file = join(dir.path, "mixed.conf");
    writeFileSync(file, mixed);
    const checked = await run(await findNatsServer(ROOT), ["-t", "-c", file], {
      timeout: LIMIT_MS,
    });
    expect(checked.stdout + checked.stderr).toContain("is valid");
  });

  test("keeps what a user has, gives one more key when asked, and takes hosts that have joined", async () => {
    await using dir = await tempDir();
    const [secrets, admissions, certFile] = ["secrets", "hosts.json", "x.crt"].map((name) =>
      join(dir.path, name),
    ) as [string, string, string];
    await mkdir(secrets);
    writeFileSync(join(secrets, "control"), "of before\n");
    const joined = createNatsKey();
    writeFileSync(
      admissions,
      JSON.stringify({ admissions: [{ host_id: "host-9", nats_public_keys: [joined.publicKey] }] }),
    );
    const tls = ["--tls-cert", certFile, "--tls-key", certFile, "--tls-ca", certFile];
    const base = [
      "--name",
      "a",
      "--servers",
      "a=10.0.0.11",
      "--secrets",
      secrets,
      "--hosts",
      "h-1",
    ];
    expect((await configure(base)).stdout).not.toContain("tls {");
    const { stdout, stderr } = await configure([
      ...base,
      "--admissions",
      admissions,
      "--new-keys",
      "control,h-1",
      ...tls,
    ]);
    expect(stderr).toBe("");
    expect((await readdir(secrets)).toSorted()).toEqual([
      "control",
      "control.seed",
      "host-h-1.2.seed",
      "host-h-1.seed",
    ]);
    for (const file of ["control.seed", "host-h-1.seed", "host-h-1.2.seed"])
      expect(stdout).toContain(publicKeyOf(readFileSync(join(secrets, file), "utf8")));
    expect(stdout).toContain('"user":"control","password":"of before"');
    expect(stdout).toMatch(new RegExp(`HOST_host-9: .*${joined.publicKey}`));
    expect(stdout).toMatch(/tls \{[^}]*verify: true/);
    expect((await configure([...base, ...tls, "--take-plain"])).stdout).toMatch(
      /allow_non_tls: true/,
    );
    // The first key is removed when no program uses it; the next key gets a new number.
    rmSync(join(secrets, "host-h-1.seed"));
    await configure([...base, "--new-keys", "h-1"]);
    expect(await readdir(secrets)).toEqual(
      expect.arrayContaining(["host-h-1.2.seed", "host-h-1.3.seed"]),
    );
    writeFileSync(join(secrets, "control.seed"), "SUNONSENSE");
    expect(await configure(base)).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("control.seed holds no seed"),
    });
  });

  test("a host that joins keeps what it had until it is left out, and has nothing once it is revoked", async () => {
    await using dir = await tempDir();
    const [secrets, admissions] = ["secrets", "hosts.json"].map((name) => join(dir.path, name)) as [
      string,
      string,
    ];
    await mkdir(secrets);
    writeFileSync(join(secrets, "host-h-1"), "of before\n");
    const { publicKey } = createNatsKey();
    const admit = (entry: object) =>
      writeFileSync(admissions, JSON.stringify({ admissions: [{ host_id: "h-1", ...entry }] }));
    const written = async (hosts: string[]) => {
      const named = hosts.length === 0 ? [] : ["--hosts", hosts.join(",")];
      const args = [
        "--name",
        "a",
        "--servers",
        "a=10.0.0.11",
        "--secrets",
        secrets,
        "--admissions",
        admissions,
        ...named,
      ];
      const { code, stdout, stderr } = await configure(args);
      expect([code, stderr]).toEqual([0, ""]);
      return stdout;
    };
    // A client may register a key twice, and the server refuses duplicate keys.
    admit({ nats_public_keys: [publicKey, publicKey], revoked_at: null });
    const both = await written(["h-1"]);
    expect(both).toContain('"password":"of before"');
    expect(both.split(publicKey)).toHaveLength(2);
    expect(await written([])).not.toContain("of before");
    admit({ nats_public_keys: [], revoked_at: "2031-05-01T12:00:00Z" });
    expect(await written(["h-1"])).not.toContain("HOST_h-1");
  });

  test.each<[string, string[], RegExp]>([
    [
      "a third of TLS",
      ["--name", "a", "--servers", "a=1.2.3.4", "--secrets", "x", "--tls-ca", "y"],
      /belong together/,
    ],
    [
      "new keys of somebody else",
      ["--name", "a", "--servers", "a=1.2.3.4", "--secrets", "x", "--new-keys", "h-2"],
      /--new-keys: "h-2" is not among/,
    ],
    [
      "hosts from a file that is not there",
      ["--name", "a", "--servers", "a=1.2.3.4", "--secrets", "/tmp", "--admissions", "/nowhere"],
      /ENOENT/,
    ],
    [
      "a server that is not one of them",
      ["--name", "nats-9", "--servers", SERVERS],
      /--name must be one of nats-1, nats-2, nats-3, not "nats-9"/,
    ],
    [
      "two servers",
      ["--name", "a", "--servers", "a=1.2.3.4,b=1.2.3.5"],
      /--servers must name 1, 3 or 5 servers/,
    ],
    [
      "a server without an address",
      ["--name", "a", "--servers", "a"],
      /--servers: "a" is not of the form name=address/,
    ],
    [
      "a host id that cannot be one",
      ["--name", "a", "--servers", "a=1.2.3.4", "--hosts", "Host>"],
      /--hosts: "Host>" is no host id/,
    ],
    [
      "a shared host that is none",
      ["--name", "a", "--servers", "a=1.2.3.4", "--hosts", "b", "--shared-hosts", "c"],
      /--shared-hosts: "c" is not among --hosts/,
    ],
    ["no place for passwords", ["--name", "a", "--servers", "a=1.2.3.4"], /--secrets is missing/],
  ])("refuses %s", async (_, args, message) => {
    const { code, stdout, stderr } = await configure(args);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(message);
  });
});

describe("certify.ts", () => {
  const certify = (dir: string, ...args: string[]) =>
    node("infra/tls/certify.ts", ["--dir", dir, ...args]);

  test("makes an authority once, and certificates that say who each program is", async () => {
    await using dir = await tempDir();
    expect(await certify(dir.path, "gateway")).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("make it first, with `authority`"),
    });
    for (const args of [
      ["authority"],
      ["gateway"],
      ["host", "host-1"],
      ["server", "nats-1", "10.0.0.11"],
    ])
      expect(await certify(dir.path, ...args)).toMatchObject({ code: 0, stderr: "" });
    const read = (name: string) => new X509Certificate(readFileSync(join(dir.path, name)));
    const authority = read("ca.crt");
    for (const [name, names] of [
      ["gateway.crt", "URI:spiffe://torpor/gateway"],
      ["host-1.crt", "URI:spiffe://torpor/host/host-1"],
      ["nats-1.crt", "DNS:nats-1, IP Address:10.0.0.11"],
    ] as const) {
      expect(read(name).subjectAltName).toBe(names);
      expect(read(name).verify(authority.publicKey)).toBe(true);
    }
    expect(statSync(join(dir.path, "ca.key")).mode & 0o777).toBe(0o600);
    const before = readFileSync(join(dir.path, "ca.crt"), "utf8");
    expect(await certify(dir.path, "authority")).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("is there already"),
    });
    expect(readFileSync(join(dir.path, "ca.crt"), "utf8")).toBe(before);
  });

  test.each<[string[], RegExp]>([
    [["nobody"], /"nobody" is not one of authority, gateway/],
    [["host", "No Host"], /"No Host" is no host id/],
    [["gateway", "--days", "0"], /--days must be 1 to 3650/],
  ])("refuses %j", async (args, message) => {
    await using dir = await tempDir();
    await certify(dir.path, "authority");
    const { code, stderr } = await certify(dir.path, ...args);
    expect([code, stderr]).toEqual([2, expect.stringMatching(message)]);
  });
});

test("follow-admissions.sh writes a configuration that the server takes, and tells the server when it differs", async () => {
  await using dir = await tempDir();
  const [first, second] = [createNatsKey(), createNatsKey()];
  let admissions = [{ host_id: "host-1", nats_public_keys: [first.publicKey] }];
  const api = createServer((_, response) =>
    response.end(JSON.stringify({ data: admissions, next_cursor: null })),
  );
  await once(api.listen(0, "127.0.0.1"), "listening");
  const at = (name: string) => join(dir.path, name);
  const env = {
    PATH: process.env["PATH"],
    NODE: process.execPath,
    HOPX_BASE_URL: `http://127.0.0.1:${(api.address() as AddressInfo).port}`,
    HOPX_API_KEY: "key",
    NATS_CONFIGURE: `--name a --servers a=127.0.0.1 --secrets ${at("secrets")} --store ${at("store")}`,
    NATS_CONF: at("nats.conf"),
    NATS_SERVER: await findNatsServer(ROOT),
    NATS_RELOAD: `touch ${at("told")}`,
  };
  // Secrets that the servers share are made elsewhere, and copied here.
  await configure(["--name", "a", "--servers", "a=127.0.0.1", "--secrets", at("secrets")]);
  const follow = async () =>
    await run("sh", [join(ROOT, "infra/nats/follow-admissions.sh")], { env, timeout: LIMIT_MS });
  const wasTold = () => existsSync(at("told")) && (rmSync(at("told")), true);
  await follow();
  expect([readFileSync(at("nats.conf"), "utf8").includes(first.publicKey), wasTold()]).toEqual([
    true,
    true,
  ]);
  await follow();
  expect(wasTold()).toBe(false);
  admissions = [...admissions, { host_id: "host-2", nats_public_keys: [second.publicKey] }];
  await follow();
  expect([readFileSync(at("nats.conf"), "utf8").includes(second.publicKey), wasTold()]).toEqual([
    true,
    true,
  ]);
  // A control key that a server makes for itself is useless: no program has that key.
  rmSync(at("secrets/control.seed"));
  await expect(follow()).rejects.toMatchObject({
    stderr: expect.stringContaining("control.seed is missing: copy it from"),
  });
  await configure(["--name", "a", "--servers", "a=127.0.0.1", "--secrets", at("secrets")]);
  // A wrong response of the API does not reach the server.
  const good = readFileSync(at("nats.conf"), "utf8");
  admissions = [{ host_id: "No Host", nats_public_keys: ["x"] }];
  await expect(follow()).rejects.toMatchObject({
    stderr: expect.stringContaining("is no host with its keys"),
  });
  expect([readFileSync(at("nats.conf"), "utf8"), wasTold()]).toEqual([good, false]);
  api.close();
});

test("migrate.ts brings an empty database to this version, by several at once and again, and makes the first API key", async () => {
  await using server = await startPostgres();
  await using dir = await tempDir();
  const url = await server.emptyDatabase();
  const keyFile = join(dir.path, "key");
  writeFileSync(keyFile, "torpor_live_first\n");
  const migrated = await Promise.all(
    Array.from({ length: 3 }, () =>
      node("infra/postgres/migrate.ts", ["--api-key-file", keyFile], { DATABASE_URL: url }),
    ),
  );
  expect(migrated.map(({ code, stderr }) => [code, stderr])).toEqual(migrated.map(() => [0, ""]));
  const database = openDatabase(url, { maxConnections: 1 });
  const first = async () => await findApiKey(database.db, "torpor_live_first");
  const made = await first();
  expect(made).toMatchObject({
    organizationId: expect.any(Number),
    scopes: ["read", "lifecycle", "exec"],
  });
  for (const { stdout } of migrated)
    expect(stdout).toContain("no API key may manage hosts and keys");
  const operator = await node(
    "infra/postgres/migrate.ts",
    ["--api-key-file", keyFile, "--operator"],
    { DATABASE_URL: url },
  );
  expect(operator, operator.stderr).toMatchObject({
    code: 0,
    stdout: expect.not.stringContaining("no API key may"),
  });
  expect(await first()).toMatchObject({
    apiKeyId: made?.apiKeyId,
    scopes: expect.arrayContaining(["operator"]),
  });
  await database.close();
  expect(
    await node("infra/postgres/migrate.ts", ["--operator"], { DATABASE_URL: url }),
  ).toMatchObject({ code: 2 });
  expect(await node("infra/postgres/migrate.ts", [])).toMatchObject({
    code: 2,
    stderr: expect.stringContaining("DATABASE_URL must be set"),
  });
});

test("migrate.ts gives gateways and schedulers users of their own", async () => {
  await using server = await startPostgres();
  await using dir = await tempDir();
  const url = await server.emptyDatabase();
  const [gatewayFile, schedulerFile] = [join(dir.path, "gateway"), join(dir.path, "scheduler")];
  writeFileSync(gatewayFile, "g-password\n");
  writeFileSync(schedulerFile, "s-password\n");
  const files = [
    "--gateway-password-file",
    gatewayFile,
    "--scheduler-password-file",
    schedulerFile,
  ];
  const early = await node("infra/postgres/migrate.ts", files, { DATABASE_URL: url });
  expect(early).toMatchObject({ code: 2, stderr: expect.stringContaining("--database-users") });
  const made = await node("infra/postgres/migrate.ts", ["--database-users", ...files], {
    DATABASE_URL: url,
  });
  expect(made).toMatchObject({
    code: 0,
    stdout: expect.stringContaining("torpor_gateway and torpor_scheduler have their rights"),
  });
  for (const login of ["torpor_gateway:g-password", "torpor_scheduler:s-password"]) {
    const handle = openDatabase(url.replace(/\/\/[^@]+@/, `//${login}@`), { maxConnections: 1 });
    expect(await handle.db.execute("SELECT id FROM sandboxes")).toHaveLength(0);
    await handle.close();
  }
});

test("migrate.ts encrypts environment variables that are stored in plain text, and exchanges the key", async () => {
  await using server = await startPostgres();
  await using dir = await tempDir();
  await using database = await openTestDatabase(server);
  const [oldFile, newFile] = [join(dir.path, "old"), join(dir.path, "new")];
  writeFileSync(oldFile, "o".repeat(64));
  writeFileSync(newFile, "n".repeat(64));
  const variables = { TOKEN: "hunter2-is-secret" };
  const [living, deleted] = await Promise.all(
    [1, 2].map(() => makeSandbox(database, "running", { sandbox: { envVars: variables } })),
  );
  const none = await makeSandbox(database, "running");
  if (living === undefined || deleted === undefined)
    throw new Error("two sandboxes were to be made");
  await inTransaction(database.db, (tx) =>
    moveSandbox(tx, { sandbox: deleted, to: "deleted", fact: "deleted" }),
  );
  const encrypt = (keyFile: string, accepted = "") =>
    node("infra/postgres/migrate.ts", ["--encrypt-env-vars"], {
      DATABASE_URL: database.url,
      ENV_KEY_FILE: keyFile,
      ENV_ACCEPTED_KEY_FILES: accepted,
    });
  const openWith = async (file: string) => {
    const row = await findSandboxRow(database.db, living.id);
    return row === undefined ? undefined : await openEnvVars(envelopeFrom(file, ""), row.id, row);
  };
  const isThere = async () =>
    (await database.sql`SELECT 1 FROM sandboxes WHERE sandboxes::text LIKE '%hunter2%'`).length;
  expect(await isThere(), "of the living one alone").toBe(1);
  expect(await encrypt(oldFile)).toMatchObject({
    code: 0,
    stdout: expect.stringContaining("variables of 1 sandboxes"),
  });
  expect(await isThere()).toBe(0);
  expect(await openWith(oldFile)).toEqual(variables);
  expect(await encrypt(newFile), "without the key that it was encrypted with").toMatchObject({
    code: 1,
  });
  expect(await encrypt(newFile, oldFile)).toMatchObject({
    code: 0,
    stdout: expect.stringContaining("variables of 1 sandboxes"),
  });
  expect(await encrypt(newFile)).toMatchObject({
    code: 0,
    stdout: expect.stringContaining("variables of 0 sandboxes"),
  });
  expect(await openWith(newFile)).toEqual(variables);
  await expect(openWith(oldFile)).rejects.toThrow(/is in none of the files/);
  expect(await findSandboxRow(database.db, none.id)).toMatchObject({
    envVars: {},
    envVarsSealed: null,
  });
  const keyless = await node("infra/postgres/migrate.ts", ["--encrypt-env-vars"], {
    DATABASE_URL: database.url,
  });
  expect(keyless).toMatchObject({ code: 2, stderr: expect.stringContaining("ENV_KEY_FILE") });
});

test("the settings that infra/control-plane shows are settings", () => {
  const settingsIn = (file: string) => {
    const lines = readFileSync(join(ROOT, "infra/control-plane", file), "utf8").split("\n");
    // Lines that are commented out show a default.
    const pairs = lines.flatMap((line) => /^#?([A-Z_]+)=(.*)$/.exec(line)?.slice(1, 3) ?? []);
    return Object.fromEntries(
      Array.from({ length: pairs.length / 2 }, (_, at) => [
        pairs[2 * at] ?? "",
        pairs[2 * at + 1] ?? "",
      ]),
    );
  };
  for (const [file, read] of [
    ["gateway.env", gatewayConfig],
    ["scheduler.env", schedulerConfig],
  ] as const) {
    const shown = settingsIn(file);
    const config: Record<string, unknown> = read(shown);
    for (const [name, value] of Object.entries(shown))
      expect(String(config[name]), name).toBe(value);
  }
});
