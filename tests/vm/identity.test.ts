/**
 * What belongs to one sandbox only (randomness, names, files), and what is left of it after a
 * pause, a stop or the end of the whole fleet. On real virtual machines.
 */
import { execFile } from "node:child_process";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import {
  python,
  type SandboxResource,
  shell,
  startVmFleet,
  type TestFleet,
  until,
} from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const run = promisify(execFile);

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startVmFleet();
});
afterAll(async () => await fleet[Symbol.asyncDispose]());

type Verb = "pause" | "resume" | "stop" | "start";
const STATUS_AFTER = { pause: "paused", resume: "running", stop: "stopped", start: "running" };
const operation = async ({ id }: SandboxResource, verb: Verb) => {
  const { status } = await fleet.client.sandboxes[verb](id);
  expect(status).toBe(STATUS_AFTER[verb]);
};
const post = async (sandbox: SandboxResource, path: string, body: object) =>
  (await fleet.guest(sandbox, path, body)).body;

/** Draws in the first cell, in children that the cell forks, and in multiprocessing's children. */
const DRAWS = `
import json, multiprocessing, os, random, secrets, ssl, socket, tempfile, uuid
import numpy
def draw():
    return {
        "random": random.random(), "randbytes": random.randbytes(8).hex(), "urandom": os.urandom(8).hex(),
        "secrets": secrets.token_hex(8), "uuid4": str(uuid.uuid4()), "uuid1": str(uuid.uuid1()),
        "ssl": ssl.RAND_bytes(8).hex(), "tempfile": tempfile.mktemp(), "directory": tempfile.mkdtemp(),
        "numpy": numpy.random.random(), "generator": numpy.random.default_rng().random(),
    }
def forked():
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.write(theirs, json.dumps(draw()).encode()); os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        return json.load(pipe)
def process():
    queue = multiprocessing.get_context("fork").SimpleQueue()
    child = multiprocessing.get_context("fork").Process(target=lambda: queue.put(draw()))
    child.start(); drawn = queue.get(); child.join()
    return drawn
names = {"hostname": socket.gethostname(), "machine": open("/etc/machine-id").read(),
         "boot": open("/proc/sys/kernel/random/boot_id").read(),
         "authkey": multiprocessing.current_process().authkey.hex()}
print(json.dumps({**names, "cell": draw(), "forked": [forked(), forked()], "process": process()}))
`;
const SHELL = "echo $RANDOM-$RANDOM-$RANDOM; mktemp; mktemp -u; cat /proc/sys/kernel/random/uuid";
const NODE = `const c = require("crypto");
console.log([c.randomUUID(), c.randomBytes(8).toString("hex"), Math.random(), c.webcrypto.randomUUID()].join("\\n"))`;
/** Records the TLS client hello of the agent's callback: its random, and its half of a key. */
const LISTEN = `
import socket, threading
server = socket.create_server(("127.0.0.1", 9443))
def take():
    connection = server.accept()[0]
    open("/workspace/hello", "wb").write(connection.recv(4096))
    connection.close()
threading.Thread(target=take, daemon=True).start()`;

/** Every string and number in a value, with its path. */
function leaves(value: unknown, path = ""): [string, string][] {
  if (typeof value !== "object" || value === null) return [[path, String(value)]];
  return Object.entries(value).flatMap(([name, entry]) => leaves(entry, `${path}/${name}`));
}

/** Everything that is drawn at random for a new sandbox. */
async function drawn(sandbox: SandboxResource): Promise<[string, string][]> {
  const draws = JSON.parse(await python(sandbox, DRAWS)) as unknown;
  const background = await post(sandbox, "/commands/background", { command: "true" });
  const { body: jupyter } = await fleet.guest(sandbox, "/jupyter/sessions");
  const [session] = jupyter["sessions"] as { kernel_id: string }[];
  const refused = (await fleet.guest(sandbox, "/commands/run", {})).body;
  const inShell = await post(sandbox, "/execute", { language: "bash", code: SHELL });
  const inNode = await post(sandbox, "/execute", { language: "javascript", code: NODE });
  await python(sandbox, LISTEN);
  const callback = { code: "1", language: "bash", callback_url: "https://127.0.0.1:9443" };
  const queued = await post(sandbox, "/execute/async", callback);
  const hello = "[ -s /workspace/hello ] && od -An -tx1 -v -w32 -j11 -N32 /workspace/hello";
  await until("a callback", async () => (await shell(sandbox, hello)) !== "");
  return leaves({
    draws,
    processId: background["process_id"],
    executionId: background["execution_id"],
    async: queued["execution_id"],
    kernelId: session?.kernel_id,
    requestId: refused["request_id"],
    shell: String(inShell["stdout"]).trim().split("\n"),
    node: String(inNode["stdout"]).trim().split("\n"),
    hello: await shell(sandbox, hello),
  });
}

test("everything random in a sandbox is its own", async () => {
  const sandboxes = await Promise.all([fleet.createSandbox(), fleet.createSandbox()]);
  const [one = [], other = []] = await Promise.all(sandboxes.map(drawn));
  expect(one.length).toBeGreaterThan(55);
  expect(other.map(([path]) => path)).toEqual(one.map(([path]) => path));
  for (const [path, value] of one) expect(value, path).not.toMatch(/^(undefined|null|)$/);
  expect(one.filter(([, value], at) => value === other[at]?.[1])).toEqual([]);
});

describe("names", () => {
  const names = (sandbox: SandboxResource) =>
    shell(sandbox, "hostname; cat /etc/hostname /etc/machine-id /etc/hosts; stat -c %a /workspace");

  test("a new sandbox has its own", async () => {
    const sandbox = await fleet.createSandbox();
    const [hostname, file, machineId, ...hosts] = (await names(sandbox)).split("\n");
    expect([hostname, file]).toEqual([sandbox.id, sandbox.id]);
    expect(machineId).toMatch(/^[0-9a-f]{32}$/);
    expect(hosts).toEqual([
      "127.0.0.1\tlocalhost",
      "::1\tlocalhost ip6-localhost ip6-loopback",
      `127.0.1.1\t${sandbox.id}`,
      "1777",
    ]);
  });

  test(
    "NM1: what the user made of them survives a pause, and in files a stop",
    { tags: ["exhaustive"] },
    async () => {
      const sandbox = await fleet.createSandbox();
      await shell(sandbox, "echo 10.0.0.7 db >> /etc/hosts; hostname box; chmod 750 /workspace");
      const changed = await names(sandbox);
      expect(changed).toMatch(/^box\n[^]*10\.0\.0\.7 db\n750$/);
      for (const verb of ["pause", "resume"] as const) await operation(sandbox, verb);
      expect(await names(sandbox)).toBe(changed);

      await shell(
        sandbox,
        "echo crate > /etc/hostname; echo 0123456789abcdef0123456789abcdef > /etc/machine-id",
      );
      for (const verb of ["pause", "resume"] as const) await operation(sandbox, verb);
      expect(await names(sandbox)).toMatch(/^box\ncrate\n0123456789abcdef/);
      for (const verb of ["stop", "start"] as const) await operation(sandbox, verb);
      expect(await names(sandbox)).toMatch(
        /^crate\ncrate\n0123456789abcdef[^]*10\.0\.0\.7 db\n750$/,
      );
    },
  );

  const workspaces: [string, string, string][] = [
    ["missing", "true", "/workspace"],
    ["a link to nothing", "ln -s /nowhere /workspace", "/"],
  ];
  const others: [string, string, string][] = [
    ["a file", "echo x > /workspace", "/"],
    ["a link to a directory", "mkdir -p /root/mine && ln -s /root/mine /workspace", "/root/mine"],
  ];
  const stopAndStart = async (make: string, where: string) => {
    const sandbox = await fleet.createSandbox();
    await shell(sandbox, `cd / && rm -rf /workspace && ${make}`);
    expect(await shell(sandbox, "pwd -P")).toBe(where === "/workspace" ? "/" : where);
    for (const verb of ["stop", "start"] as const) await operation(sandbox, verb);
    expect(await shell(sandbox, "pwd -P")).toBe(where);
    expect(await python(sandbox, "print(1)")).toBe("1");
  };
  test.each(workspaces)(
    "a sandbox whose /workspace is %s stops and starts",
    async (_name, make, where) => await stopAndStart(make, where),
  );
  test.each(others)(
    "a sandbox whose /workspace is %s stops and starts",
    { tags: ["exhaustive"] },
    async (_name, make, where) => await stopAndStart(make, where),
  );
});

/** Last, because this test ends the fleet. */
test("FL2: what was written before the fleet is ended is on the disk", async () => {
  const sandbox = await fleet.createSandbox();
  const trap =
    "trap 'echo ended > /workspace/term; exit' TERM; touch /workspace/traps; while :; do sleep 0.1; done";
  await post(sandbox, "/commands/background", { command: trap });
  // Ends at SIGKILL only, so that the other one has the whole time.
  const counts =
    "trap 'echo one >> /workspace/terms' TERM; touch /workspace/counts; while :; do sleep 0.1; done";
  await post(sandbox, "/commands/background", { command: counts });
  await until("both run", async () => {
    const names = await shell(sandbox, "ls /workspace");
    return names.includes("traps") && names.includes("counts");
  });
  await python(
    sandbox,
    "file = open('/workspace/late', 'w'); file.write('y' * 1_000_000); file.flush()",
  );
  const said: string[] = [];
  await fleet.fleet.down({ say: (line) => said.push(line) });
  expect(said).toEqual([]);

  const hosts = join(fleet.fleet.dir, "hosts");
  const disks = (await readdir(hosts)).map((host) =>
    join(hosts, host, "vm", sandbox.id, "disk.raw"),
  );
  const read = async (path: string) => {
    for (const disk of disks) {
      const { stdout } = await run("debugfs", ["-R", `cat ${path}`, disk]).catch(() => ({
        stdout: "",
      }));
      if (stdout !== "") return stdout;
    }
    return "";
  };
  expect((await read("/upper/workspace/late")).length).toBe(1_000_000);
  expect(await read("/upper/workspace/term")).toBe("ended\n");
  expect(await read("/upper/workspace/terms")).toBe("one\n");
});
