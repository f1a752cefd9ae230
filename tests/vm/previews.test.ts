/**
 * Previews and policies on real virtual machines: a real guest's ports, its own processes, and a
 * real pause.
 */
import { Sandbox } from "@hopx-ai/sdk";
import { claimPorts } from "@torpor/service";
import { type SandboxResource, startVmFleet, type TestFleet, until } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startVmFleet();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

const newSandbox = () =>
  Sandbox.create({ template: "code-interpreter", apiKey: fleet.apiKey, baseURL: fleet.url });

test("a server in the guest is a preview, also one that listens on the guest's loopback alone; it survives a pause, and traffic wakes it", async () => {
  const sandbox = await newSandbox();
  // No other program has this port on all addresses of the machine, the sandbox's among them.
  const [port] = await claimPorts(1);
  await fleet.client.sandboxes.patch(sandbox.sandboxId, { auto_resume: true });
  await sandbox.commands.run(
    `echo hello > /workspace/page; cd /workspace; nohup python3 -m http.server ${port} --bind 127.0.0.1 >/dev/null 2>&1 &`,
  );
  const { publicHost } = await sandbox.getInfo();
  const page = `http://${new URL(publicHost).hostname}:${port}/page`;
  const read = async () =>
    await (await fetch(page, { signal: AbortSignal.timeout(60_000) })).text();
  expect(await until("the preview is served", () => read().catch(() => undefined), 60_000)).toBe(
    "hello\n",
  );
  await sandbox.pause();
  expect(await read()).toBe("hello\n");
  expect((await fleet.client.sandboxes.get(sandbox.sandboxId)).status).toBe("running");
  await sandbox.kill();
});

test(
  "S54: a command that runs in the background keeps its sandbox awake; when it has ended, the idle sandbox is paused",
  { tags: ["exhaustive"] },
  async () => {
    const sandbox = await newSandbox();
    await sandbox.commands.run("sleep 40; echo done > /workspace/done", { background: true });
    await fleet.client.sandboxes.patch(sandbox.sandboxId, { auto_pause: { idle_seconds: 3 } });
    const { sandboxId } = sandbox;
    await until(
      "a pause is given up",
      async () =>
        (await fleet.events(sandboxId)).some(({ cause }) => cause?.code === "SANDBOX_ACTIVE"),
      60_000,
    );
    const isPaused = ({ status }: SandboxResource) => status === "paused";
    await fleet.untilSandbox("it is paused", sandboxId, isPaused, 120_000);
    await sandbox.resume();
    expect(await sandbox.files.read("/workspace/done")).toBe("done\n");
    await sandbox.kill();
  },
);
