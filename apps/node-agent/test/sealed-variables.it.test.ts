/**
 * Environment variables that are sealed for this host: which keys open them, and what follows if
 * none does.
 */
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  type HostId,
  type OperationId,
  type SandboxId,
  variablesContext,
  type VmCommand,
} from "@torpor/contracts";
import { boxPublicKey, createBoxKey, sealFor } from "@torpor/service";
import { tempDir } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";
import { variablesOf } from "../src/lifecycle/variables.ts";
import { commandKeyIn } from "../src/control/command-key.ts";
import { driverNamed } from "./support/drivers.ts";
import { COMMAND_KEY, commandsOf, prepareImages, TestHost } from "./support/test-host.ts";

const VARIABLES = { TOKEN: "hunter2-is-secret" };
const driver = driverNamed("simulated");
let root: Awaited<ReturnType<typeof tempDir>>;
let plain: VmCommand;
let hosts = 0;

beforeAll(async () => {
  root = await tempDir();
  const imageSha256 = await prepareImages(join(root.path, "images"), driver);
  [plain] = commandsOf(["create"], imageSha256) as [VmCommand];
});
afterAll(async () => await root[Symbol.asyncDispose]());

/** Seals the variables for the command, as the scheduler does. */
function sealedIn(command: VmCommand, key = COMMAND_KEY): VmCommand {
  const text = JSON.stringify(VARIABLES);
  const sealedVariables = sealFor(boxPublicKey(key), variablesContext(command), text);
  return { ...command, sealedVariables };
}

async function complete(command: VmCommand) {
  hosts += 1;
  const dir = join(root.path, `host-${hosts}`);
  await mkdir(dir);
  const host = new TestHost(dir, driver, undefined, join(root.path, "images"), "none");
  await host.supervisor.adopt();
  const seen = await host.complete(command);
  // No journal is left, so the command is not tried again.
  expect(await readdir(host.vm.dir).catch(() => [])).not.toContain("op.json");
  const kept = await readFile(join(host.vm.dir, "vm.json"), "utf8").catch(() => "");
  await host.end();
  return { seen, kept };
}

test("a create whose variables are sealed for this host is carried out, and its record does not have them", async () => {
  const { seen, kept } = await complete(sealedIn(plain));
  expect(seen).toMatchObject({ state: "running", operation: { outcome: "succeeded" } });
  expect(kept).not.toBe("");
  expect(kept).not.toContain("hunter2");
});

test("one whose variables are damaged, or another host's, ends at once, with the reason", async () => {
  for (const command of [
    { ...plain, sealedVariables: { ...sealedIn(plain).sealedVariables, ciphertext: "AAAA" } },
    sealedIn(plain, createBoxKey()),
  ] as VmCommand[]) {
    const { seen } = await complete(command);
    expect(seen).toMatchObject({
      state: "failed",
      operation: {
        outcome: "failed",
        error: { code: "CREATE_FAILED", message: expect.stringContaining("cannot be decrypted") },
      },
    });
  }
});

test("they open in the command that they were sealed in, and in no other", () => {
  const command = sealedIn(plain);
  expect(variablesOf(command, COMMAND_KEY)).toEqual(VARIABLES);
  const others: Partial<VmCommand>[] = [
    { spec: { ...plain.spec, sandboxId: "1795490791zzzzzzzz" as SandboxId } },
    { epoch: plain.epoch + 1 },
    { opSeq: plain.opSeq + 1 },
    { hostId: "host-2" as HostId },
    { operationId: `op_${"f".repeat(32)}` as OperationId },
  ];
  for (const other of others)
    expect(() => variablesOf({ ...command, ...other }, COMMAND_KEY)).toThrow("cannot be decrypted");
  // The command of a 0.1.0 scheduler.
  const { spec } = plain;
  expect(variablesOf({ ...plain, spec: { ...spec, envVars: VARIABLES } }, COMMAND_KEY)).toEqual(
    VARIABLES,
  );
});

test("the host's key stays over restarts; what is no key is replaced, what cannot be read is not", async () => {
  await using dir = await tempDir();
  const file = join(dir.path, "command-key");
  const first = await commandKeyIn(dir.path);
  expect(await commandKeyIn(dir.path)).toEqual(first);
  await writeFile(file, first.privateKey.slice(0, -40));
  const second = await commandKeyIn(dir.path);
  expect(second.publicKey).not.toBe(first.publicKey);
  expect(await commandKeyIn(dir.path)).toEqual(second);
  await rm(file);
  await mkdir(file);
  await expect(commandKeyIn(dir.path)).rejects.toThrow("EISDIR");
});
