/**
 * File calls on a guest's own disk: a call that was acknowledged is on the disk, and a call that
 * cannot succeed reports why.
 */
import { createHash, randomBytes } from "node:crypto";
import { listVmProcesses } from "@torpor/fleet";
import { signalProcess } from "@torpor/service";
import { type SandboxResource, shell, startVmFleet, type TestFleet } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

let fleet: TestFleet;
let sandbox: SandboxResource;
beforeAll(async () => {
  fleet = await startVmFleet({ hosts: 1, schedulers: 1 });
  sandbox = await fleet.createSandbox();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

const SHORT = "short\n";
const LONG = "written by the API\n".repeat(20_000);
const BYTES = randomBytes(3_000_000);

/** Returns "200", or the status, code and message of an error. */
async function call(method: string, path: string, body?: string | FormData): Promise<string> {
  const response = await fetch(new URL(path, sandbox.public_host), {
    method,
    headers: { authorization: `Bearer ${sandbox.auth_token}` },
    ...(body === undefined ? {} : { body }),
    signal: AbortSignal.timeout(60_000),
  });
  const { code, message } = (await response.json()) as { code?: string; message?: string };
  return response.ok ? "200" : [response.status, code, message].map(String).join(" ");
}

const write = (path: string, content: string) =>
  call("POST", "/files/write", JSON.stringify({ path, content }));
const makeDirectory = (path: string) => call("POST", "/files/mkdir", JSON.stringify({ path }));
const remove = (path: string) => call("DELETE", `/files/remove?path=${encodeURIComponent(path)}`);
const list = async (path: string) =>
  (await fleet.guest(sandbox, `/files/list?path=${path}`)).body["files"] as {
    name: string;
    path: string;
  }[];

async function upload(path: string, bytes: Buffer): Promise<string> {
  const form = new FormData();
  form.append("path", path);
  form.append("file", new Blob([Uint8Array.from(bytes)]), "upload");
  return await call("POST", "/files/upload", form);
}

const run = (command: string) => shell(sandbox, command, 60);

async function killAndStart(): Promise<void> {
  const { id } = sandbox;
  const vmms = await listVmProcesses(fleet.fleet.dir);
  const vmm = vmms.find(({ sandboxId }) => sandboxId === id);
  if (vmm === undefined) throw new Error("the sandbox has no VMM process");
  signalProcess(vmm, "SIGKILL");
  await fleet.untilSandbox("the stop", id, ({ status }) => status === "stopped", 60_000);
  expect(await fleet.client.sandboxes.start(id)).toMatchObject({ status: "running" });
}

const sha256 = (bytes: string | Buffer) => createHash("sha256").update(bytes).digest("hex");

test("a VM that is killed right after an answer has lost nothing that it said", async () => {
  for (const name of ["over", "removed"]) expect(await write(name, SHORT)).toBe("200");
  const answers = [
    await makeDirectory("made/deep"),
    await remove("removed"),
    await upload("/home/new/upload.bin", BYTES),
    await write("over", LONG),
    await write("a/b/new.txt", LONG),
  ];
  await killAndStart();
  expect(answers).toEqual(answers.map(() => "200"));
  const names = "over a/b/new.txt /home/new/upload.bin";
  expect((await run(`sha256sum ${names}; ls -d made/deep removed`)).split("\n")).toEqual([
    `${sha256(LONG)}  over`,
    `${sha256(LONG)}  a/b/new.txt`,
    `${sha256(BYTES)}  /home/new/upload.bin`,
    "made/deep",
  ]);
});

test("a full disk is the same answer to every call that needs room", async () => {
  const free = "$(df --output=avail -B1 /workspace | tail -1)";
  await run(`fallocate -l $((${free} - 8388608)) full; dd if=/dev/zero of=rest bs=64k`);
  // Directories take the last free blocks.
  await run(`python3 -c "import os\nfor i in range(10**6): os.mkdir(f'many{i}')"`);
  const full = "400 FILE_OPERATION_FAILED the disk is full; remove something first";
  expect(await makeDirectory("new/deep/er")).toBe(full);
  expect(await write("new/file", LONG)).toBe(full);
  expect(await upload("new/file", BYTES)).toBe(full);
  expect(await remove("full")).toBe("200");
  expect(await makeDirectory("new/deep/er")).toBe("200");
});

test(
  "what only the guest's programs could make is listed, and removed",
  { tags: ["exhaustive"] },
  async () => {
    const nest = "import os\nfor _ in range(3000):\n  os.mkdir('n'); os.chdir('n')";
    const cafe = "$(printf 'caf\\351')";
    await run(`mkdir odd; cd odd; python3 -c "${nest}"; mkdir "${cafe}"; touch "${cafe}/${cafe}"`);
    const entries = await list("odd");
    expect(entries.map(({ name }) => name)).toEqual(["caf\uf0e9", "n"]);
    for (const { path } of entries) expect(await remove(path)).toBe("200");
    expect(await list("odd")).toEqual([]);
  },
);
