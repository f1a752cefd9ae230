/** ComputeSDK's provider suite for hopx by the names of its tests, with the unmodified provider package. The suite itself is not published; what its tests do is done here. */
import { hopx } from "@computesdk/hopx";
import { startVmFleet, type TestFleet } from "@torpor/testkit";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { errorOf, note } from "./support.ts";

type Provider = ReturnType<typeof hopx>;
type ComputeSandbox = Awaited<ReturnType<Provider["sandbox"]["create"]>>;

let fleet: TestFleet;
let provider: Provider;
let sandbox: ComputeSandbox;
beforeAll(async () => {
  fleet = await startVmFleet();
  provider = hopx({ apiKey: fleet.apiKey, baseURL: fleet.url });
  sandbox = await provider.sandbox.create();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

describe("@computesdk/hopx 0.2.27: provider suite", () => {
  test("should create a sandbox with valid ID", () => expect(sandbox.sandboxId).toMatch(/^[0-9]{10}[a-z0-9]{8}$/));
  test("should execute shell commands", async () => {
    expect(await sandbox.runCommand("echo 'Hello from shell'")).toMatchObject({ exitCode: 0, stdout: "Hello from shell\n" });
  });
  test("should execute background commands", async () => {
    const result = await sandbox.runCommand("sleep 1", { background: true });
    expect(result.exitCode).toBe(0);
    expect(result.durationMs).toBeLessThan(15_000);
  });
  test("should get sandbox information", async () => {
    expect(await sandbox.getInfo()).toMatchObject({ id: sandbox.sandboxId, provider: "hopx", status: "running" });
  });
  test("should handle invalid commands gracefully", async () => {
    expect((await sandbox.runCommand("nonexistent-command-12345")).exitCode).toBe(127);
  });

  const file = "/tmp/test-file.txt";
  test("Filesystem: should write and read files", async () => {
    await sandbox.filesystem.writeFile(file, "Hello, World!");
    expect(await sandbox.filesystem.readFile(file)).toBe("Hello, World!");
  });
  test("Filesystem: should check file existence", async () => {
    expect(await sandbox.filesystem.exists(file)).toBe(true);
    expect(await sandbox.filesystem.exists("/tmp/none-of-it")).toBe(false);
  });
  test("Filesystem: should create directories", async () => {
    await sandbox.filesystem.mkdir("/tmp/test-dir");
    expect(await sandbox.filesystem.exists("/tmp/test-dir")).toBe(true);
  });
  test("Filesystem: should list directory contents", async () => {
    for (const name of ["file1.txt", "file2.txt"]) await sandbox.filesystem.writeFile(`/tmp/test-dir/${name}`, name);
    expect((await sandbox.filesystem.readdir("/tmp/test-dir")).map(({ name }) => name).toSorted()).toEqual(["file1.txt", "file2.txt"]);
  });
  test("Filesystem: should remove files and directories", async () => {
    await sandbox.filesystem.remove(file);
    expect(await sandbox.filesystem.exists(file)).toBe(false);
  });
  test("Filesystem: should handle file not found errors", async () => {
    expect((await errorOf(() => sandbox.filesystem.readFile("/nonexistent/file.txt"))).message).toContain("/nonexistent/file.txt");
  });

  test("Shell quoting: should properly quote arguments with spaces", async () => {
    expect((await sandbox.runCommand('echo "hello   world" "two words"')).stdout).toBe("hello   world two words\n");
  });
  test("Shell quoting: should properly quote arguments with special characters", async () => {
    expect((await sandbox.runCommand('echo "$HOME"')).stdout.trim()).not.toBe("");
  });
  test("Shell quoting: should handle complex shell commands with pipes", async () => {
    const result = await sandbox.runCommand("printf 'b\\na\\n' > /tmp/pipe.txt && cat /tmp/pipe.txt | sort | head -1");
    expect(result).toMatchObject({ exitCode: 0, stdout: "a\n" });
  });
});

describe("@computesdk/hopx 0.2.27: CRUD", () => {
  let made: ComputeSandbox;
  beforeEach(async () => {
    made ??= await provider.sandbox.create();
  });
  test("create", () => expect(made.sandboxId).not.toBe(sandbox.sandboxId));
  test("get by ID", async () => expect((await provider.sandbox.getById(made.sandboxId))?.sandboxId).toBe(made.sandboxId));
  test("list includes it", async () => expect((await provider.sandbox.list()).map((one) => one.sandboxId)).toContain(made.sandboxId));
  test("destroy", async (context) => {
    await provider.sandbox.destroy(made.sandboxId);
    note(context, "the provider connects first: a paused sandbox is resumed, a stopped one is left alone");
  });
  test("not found after destroy", async () => expect(await provider.sandbox.getById(made.sandboxId)).toBeNull());
});
