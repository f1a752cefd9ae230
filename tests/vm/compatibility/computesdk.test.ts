/**
 * ComputeSDK's provider suite for hopx by the names of its tests, with the unmodified provider
 * package. The suite itself is not published; the tests here do the same. The fleet has a domain,
 * which previews by the SDK need: names below vms.hopx.dev lead to this fleet, as an entry in
 * /etc/hosts would make them.
 */
import { randomInt } from "node:crypto";
import dns from "node:dns";
import { hopx } from "@computesdk/hopx";
import { startVmFleet, type TestFleet, until } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { errorOf, note } from "./support.ts";

type Provider = ReturnType<typeof hopx>;
type ComputeSandbox = Awaited<ReturnType<Provider["sandbox"]["create"]>>;

/** Address of this run only: another fleet may have port 80 of 127.0.0.1. */
const ADDRESS = `127.91.${randomInt(1, 255)}.${randomInt(1, 255)}`;
const lookup = dns.lookup;

let fleet: TestFleet;
let provider: Provider;
let sandbox: ComputeSandbox;
beforeAll(async () => {
  fleet = await startVmFleet({
    gatewayEnv: { PUBLIC_DOMAIN: "hopx.dev", EDGE_DOMAIN_HOST: ADDRESS, EDGE_DOMAIN_PORT: "80" },
  });
  const known = (name: string, ...rest: unknown[]) =>
    (lookup as (...args: unknown[]) => void)(
      name.endsWith(".vms.hopx.dev") ? ADDRESS : name,
      ...rest,
    );
  dns.lookup = Object.assign(known, { __promisify__: lookup.__promisify__ });
  provider = hopx({ apiKey: fleet.apiKey, baseURL: fleet.url });
  sandbox = await provider.sandbox.create();
});
afterAll(async () => {
  dns.lookup = lookup;
  await fleet[Symbol.asyncDispose]();
});

describe("@computesdk/hopx 0.2.27: provider suite", () => {
  test("should create a sandbox with valid ID", () =>
    expect(sandbox.sandboxId).toMatch(/^[0-9]{10}[a-z0-9]{8}$/));
  test("should execute shell commands", async () => {
    expect(await sandbox.runCommand("echo 'Hello from shell'")).toMatchObject({
      exitCode: 0,
      stdout: "Hello from shell\n",
    });
  });
  test("should execute background commands", async () => {
    const result = await sandbox.runCommand("sleep 600", { background: true });
    expect(result.exitCode).toBe(0);
    expect((await sandbox.runCommand("pgrep -c sleep")).stdout).toBe("1\n");
  });
  test("should get sandbox info", async () => {
    expect(await sandbox.getInfo()).toMatchObject({
      id: sandbox.sandboxId,
      provider: "hopx",
      status: "running",
    });
  });
  test("should get sandbox URL for a port", async (context) => {
    const url = await sandbox.getUrl({ port: 3000 });
    expect(url).toBe(`https://3000-${sandbox.sandboxId}.local.vms.hopx.dev/`);
    await sandbox.runCommand("mkdir -p /tmp/site && cd /tmp/site && echo hello > index.html");
    await sandbox.runCommand("python3 -m http.server 3000 --directory /tmp/site", {
      background: true,
    });
    // The SDK always returns https; this fleet has no certificate.
    const page = await until("the preview", async () => {
      const answer = await fetch(url.replace("https:", "http:")).catch(() => undefined);
      return answer?.ok === true ? await answer.text() : undefined;
    });
    expect(page).toBe("hello\n");
    note(context, "with PUBLIC_DOMAIN=hopx.dev: the SDK accepts hosts below vms.hopx.dev alone");
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
    for (const name of ["file1.txt", "file2.txt"])
      await sandbox.filesystem.writeFile(`/tmp/test-dir/${name}`, name);
    expect(
      (await sandbox.filesystem.readdir("/tmp/test-dir")).map(({ name }) => name).toSorted(),
    ).toEqual(["file1.txt", "file2.txt"]);
  });
  test("Filesystem: should remove files and directories", async () => {
    await sandbox.filesystem.remove(file);
    expect(await sandbox.filesystem.exists(file)).toBe(false);
  });
  test("Filesystem: should handle file not found errors", async () => {
    const error = await errorOf(() => sandbox.filesystem.readFile("/nonexistent/file.txt"));
    expect(error.message).toContain("/nonexistent/file.txt");
  });

  test("Shell quoting: should properly quote arguments with spaces", async () => {
    expect((await sandbox.runCommand('echo "hello   world" "two words"')).stdout).toBe(
      "hello   world two words\n",
    );
  });
  test("Shell quoting: should properly quote arguments with special characters", async () => {
    expect((await sandbox.runCommand('echo "$HOME"')).stdout.trim()).not.toBe("");
  });
  test("Shell quoting: should handle complex shell commands with pipes", async () => {
    const result = await sandbox.runCommand(
      "printf 'b\\na\\n' > /tmp/pipe.txt && cat /tmp/pipe.txt | sort | head -1",
    );
    expect(result).toMatchObject({ exitCode: 0, stdout: "a\n" });
  });
});

describe("@computesdk/hopx 0.2.27: CRUD", () => {
  let made: ComputeSandbox;
  test("create", async () => {
    made = await provider.sandbox.create();
    expect(made.sandboxId).not.toBe(sandbox.sandboxId);
  });
  test("get by ID", async () =>
    expect((await provider.sandbox.getById(made.sandboxId))?.sandboxId).toBe(made.sandboxId));
  test("list includes it", async () =>
    expect((await provider.sandbox.list()).map((one) => one.sandboxId)).toContain(made.sandboxId));
  test("destroy", async (context) => {
    await provider.sandbox.destroy(made.sandboxId);
    expect((await fleet.call("GET", `/v1/sandboxes/${made.sandboxId}`)).status).toBe(404);
    note(
      context,
      "the provider connects first: a paused sandbox is resumed, a stopped one is left alone",
    );
  });
  test("not found after destroy", async () =>
    expect(await provider.sandbox.getById(made.sandboxId)).toBeNull());
});

describe("@hopx-ai/sdk 0.5.1: Sandbox, on a domain", () => {
  test("getPreviewUrl", async (context) => {
    const native = sandbox.getInstance();
    expect(await native.getPreviewUrl(8080)).toBe(
      `https://8080-${sandbox.sandboxId}.local.vms.hopx.dev/`,
    );
    expect((await native.runCode("print('over the domain')")).stdout).toBe("over the domain\n");
    note(
      context,
      "with PUBLIC_DOMAIN=hopx.dev. Without a domain a port is at http://<address of public_host>:<port>/, which the SDK cannot tell",
    );
  });
});
