/**
 * The lifecycle of one sandbox, with the unmodified official SDK: state kept over pause and resume,
 * files kept over stop and start, repeats joined, mismatches refused, a resume on the other host, a
 * kill. Every claim is checked against the API, the guest and the host's process table.
 */
import { Sandbox } from "@hopx-ai/sdk";
import { mib, Narrator } from "./narrator.ts";
import { call, eventually, findVmm, type DemoStage, type VmSeen } from "./stage.ts";

const TEMPLATE = "code-interpreter";

/** Tells the story. Returns true if every claim held; throws when a step failed. */
export async function tellStory(stage: DemoStage, write: (line: string) => void): Promise<boolean> {
  const narrator = new Narrator(write);
  const sandbox = await create(narrator, stage);
  const id = sandbox.sandboxId;
  try {
    const pid = await giveItWork(narrator, sandbox);
    await pause(narrator, stage, sandbox);
    await connectAndFind(narrator, stage, id, pid);
    await stopAndStart(narrator, stage, id);
    await repeatsAndMismatches(narrator, stage, id);
    if (stage.hosts.length > 1) await moveToTheOtherHost(narrator, stage, id);
    else await resumeWhereItIs(narrator, stage, id);
    await kill(narrator, stage, id);
  } finally {
    await call(stage, "DELETE", `/v1/sandboxes/${id}`);
  }
  return narrator.finish();
}

function options(stage: DemoStage) {
  return { apiKey: stage.apiKey, baseURL: stage.url };
}

async function create(narrator: Narrator, stage: DemoStage): Promise<Sandbox> {
  const sandbox = await narrator.step(
    "create a sandbox",
    () => Sandbox.create({ template: TEMPLATE, ...options(stage) }),
    async (made) => ({ sandbox: made.sandboxId, ...(await whereItRuns(stage, made.sandboxId)) }),
  );
  const info = await sandbox.getInfo();
  narrator.claim("its status is running", info.status === "running", info.status);
  return sandbox;
}

async function whereItRuns(stage: DemoStage, id: string) {
  const vmm = await findVmm(stage, id);
  return vmm === undefined
    ? {}
    : { host: vmm.host.id, "VMM process": `pid ${vmm.pid}, ${mib(vmm.residentBytes)} resident` };
}

/** Returns the pid of a background process in the guest. */
async function giveItWork(narrator: Narrator, sandbox: Sandbox): Promise<number> {
  await narrator.step("x = 42 in its Python", () => sandbox.runCode("x = 42"));
  await narrator.step("write /workspace/notes.txt", () =>
    sandbox.files.write("/workspace/notes.txt", "written before the pause"),
  );
  const started = await narrator.step(
    "start a background process",
    () => sandbox.commands.run("nohup sleep 86400 > /dev/null 2>&1 & echo $!"),
    (result) => ({ "pid in the guest": result.stdout.trim() }),
  );
  const pid = Number(started.stdout.trim());
  narrator.claim("the process has a pid", Number.isInteger(pid) && pid > 1, started.stdout);
  return pid;
}

async function pause(narrator: Narrator, stage: DemoStage, sandbox: Sandbox): Promise<void> {
  const before = await runningVmm(stage, sandbox.sandboxId);
  await narrator.step(
    "pause: its memory goes to disk, its RAM is free",
    () => sandbox.pause(),
    async () => ({
      "VMM before": `${mib(before.residentBytes)} resident`,
      "VMM after": await describe(before),
      ...(await snapshotSeen(stage, sandbox.sandboxId)),
    }),
  );
  const info = await sandbox.getInfo();
  narrator.claim("its status is paused", info.status === "paused", info.status);
  const left = await before.host.residentBytes(before.pid);
  narrator.claim(
    `VMM process ${before.pid} is gone and its memory is free`,
    left === undefined,
    left,
  );
}

async function describe({ host, pid }: VmSeen): Promise<string> {
  const residentBytes = await host.residentBytes(pid);
  return residentBytes === undefined ? "gone, 0 MiB" : `${mib(residentBytes)} resident`;
}

async function snapshotSeen(stage: DemoStage, id: string) {
  const { body } = await call(stage, "GET", `/v1/sandboxes/${id}`);
  const snapshot = body["snapshot"] as { size_bytes?: number; generation?: number } | undefined;
  return snapshot?.size_bytes === undefined
    ? {}
    : { snapshot: `generation ${snapshot.generation}, ${mib(snapshot.size_bytes)} on disk` };
}

async function connectAndFind(
  narrator: Narrator,
  stage: DemoStage,
  id: string,
  pid: number,
): Promise<void> {
  const sandbox = await narrator.step(
    "connect: it resumes by itself",
    () => Sandbox.connect(id, stage.apiKey, stage.url),
    () => whereItRuns(stage, id),
  );
  await claimMemory(narrator, sandbox, "after the resume");
  const alive = await sandbox.commands.run(`kill -0 ${pid} && cat /proc/${pid}/comm`);
  narrator.claim(
    `the background process still runs with pid ${pid}`,
    alive.exit_code === 0 && alive.stdout.trim() === "sleep",
    alive.stdout + alive.stderr,
  );
}

async function claimMemory(narrator: Narrator, sandbox: Sandbox, when: string): Promise<void> {
  const result = await sandbox.runCode("print(x)");
  narrator.claim(
    `print(x) says 42 ${when}`,
    result.stdout.trim() === "42",
    result.stdout + result.stderr,
  );
}

/** Uses plain HTTP: newer SDKs lack these two calls. */
async function stopAndStart(narrator: Narrator, stage: DemoStage, id: string): Promise<void> {
  const stopped = await narrator.step("stop: the file system is kept", () =>
    call(stage, "POST", `/v1/sandboxes/${id}/stop`),
  );
  narrator.claim(
    "stop answers 200 with status stopped",
    stopped.status === 200 && stopped.body["status"] === "stopped",
    stopped,
  );
  const resume = await narrator.step("resume on the stopped sandbox", () =>
    call(stage, "POST", `/v1/sandboxes/${id}/resume`),
  );
  const allowed = JSON.stringify(resume.body["details"] ?? {});
  narrator.claim(
    "it is refused: 409 CONFLICT, saying what is allowed",
    resume.status === 409 && resume.body["code"] === "CONFLICT" && allowed.includes("start"),
    resume,
  );
  const viaSdk = await new Promise<unknown>((resolve) => {
    Sandbox.connect(id, stage.apiKey, stage.url).then(() => resolve(undefined), resolve);
  });
  narrator.claim("the SDK refuses to connect to it", viaSdk instanceof Error, viaSdk);
  const started = await narrator.step(
    "start: a fresh boot on the same files",
    () => call(stage, "POST", `/v1/sandboxes/${id}/start`),
    () => whereItRuns(stage, id),
  );
  narrator.claim(
    "start answers 200 with status running",
    started.status === 200 && started.body["status"] === "running",
    started,
  );
  const sandbox = await Sandbox.connect(id, stage.apiKey, stage.url);
  const lost = await sandbox.runCode("print(x)");
  narrator.claim(
    "x is a NameError on stderr, not an HTTP error",
    !lost.success && lost.stderr.includes("NameError"),
    lost.stderr,
  );
  const kept = await sandbox.files.read("/workspace/notes.txt");
  narrator.claim("the file is still there", kept === "written before the pause", kept);
}

async function repeatsAndMismatches(
  narrator: Narrator,
  stage: DemoStage,
  id: string,
): Promise<void> {
  const start = await narrator.step("start on the running sandbox", () =>
    call(stage, "POST", `/v1/sandboxes/${id}/start`),
  );
  narrator.claim(
    "it is joined: 200, running",
    start.status === 200 && start.body["status"] === "running",
    start,
  );
  const sandbox = await Sandbox.connect(id, stage.apiKey, stage.url);
  await narrator.step("x = 42 again, and pause", async () => {
    await sandbox.runCode("x = 42");
    await sandbox.pause();
  });
  const again = await narrator.step("pause on the paused sandbox", () =>
    call(stage, "POST", `/v1/sandboxes/${id}/pause`),
  );
  narrator.claim(
    "it is joined: 200, paused",
    again.status === 200 && again.body["status"] === "paused",
    again,
  );
}

async function moveToTheOtherHost(narrator: Narrator, stage: DemoStage, id: string): Promise<void> {
  const { body: before } = await call(stage, "GET", `/v1/sandboxes/${id}`);
  const origin = String(before["node_id"]);
  await narrator.step("its snapshot reaches the store that the hosts share", () =>
    eventually("durability replicated", 60_000, async () => {
      const { body } = await call(stage, "GET", `/v1/sandboxes/${id}`);
      return body["durability"] === "replicated" ? true : undefined;
    }),
  );
  await call(stage, "POST", `/v1/hosts/${origin}/cordon`);
  try {
    const resumed = await narrator.step(
      `resume while ${origin} is cordoned`,
      () => call(stage, "POST", `/v1/sandboxes/${id}/resume`),
      () => whereItRuns(stage, id),
    );
    narrator.claim(
      "resume answers 200 with status running",
      resumed.status === 200 && resumed.body["status"] === "running",
      resumed,
    );
    const vmm = await findVmm(stage, id);
    narrator.claim(
      `it runs on the other host, not on ${origin}`,
      vmm !== undefined && vmm.host.id !== origin,
      vmm?.host.id,
    );
    await claimMemory(
      narrator,
      await Sandbox.connect(id, stage.apiKey, stage.url),
      "on the other host",
    );
  } finally {
    await call(stage, "POST", `/v1/hosts/${origin}/uncordon`);
  }
}

/** For a fleet with only one host. */
async function resumeWhereItIs(narrator: Narrator, stage: DemoStage, id: string): Promise<void> {
  const resumed = await narrator.step(
    "resume on the only host (there is no other to move to)",
    () => call(stage, "POST", `/v1/sandboxes/${id}/resume`),
    () => whereItRuns(stage, id),
  );
  narrator.claim(
    "resume answers 200 with status running",
    resumed.status === 200 && resumed.body["status"] === "running",
    resumed,
  );
  await claimMemory(narrator, await Sandbox.connect(id, stage.apiKey, stage.url), "after it");
}

async function kill(narrator: Narrator, stage: DemoStage, id: string): Promise<void> {
  const vmm = await runningVmm(stage, id);
  const sandbox = await Sandbox.connect(id, stage.apiKey, stage.url);
  await narrator.step("kill", () => sandbox.kill());
  const gone = await call(stage, "GET", `/v1/sandboxes/${id}`);
  narrator.claim("the sandbox is gone: 404", gone.status === 404, gone);
  await eventually("the end of its VMM process", 10_000, async () =>
    (await isGone(vmm)) ? true : undefined,
  );
  narrator.claim(`VMM process ${vmm.pid} is gone`, await isGone(vmm));
}

async function isGone({ host, pid }: VmSeen): Promise<boolean> {
  return (await host.residentBytes(pid)) === undefined;
}

async function runningVmm(stage: DemoStage, id: string): Promise<VmSeen> {
  return await eventually("a VMM process of the running sandbox", 10_000, () => findVmm(stage, id));
}
