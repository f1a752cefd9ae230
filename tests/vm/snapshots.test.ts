/**
 * What a snapshot must keep, what it must not repeat, and when it must not be used; on real virtual
 * machines.
 */
import { copyFile, open, readdir, rename, rm, stat, truncate } from "node:fs/promises";
import { join } from "node:path";
import { python, type SandboxResource, shell, startVmFleet, type TestFleet } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startVmFleet();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

const status = async ({ id }: SandboxResource) => (await fleet.client.sandboxes.get(id)).status;
const remove = ({ id }: SandboxResource) => fleet.client.sandboxes.delete(id);

/** Directory of the sandbox's newest snapshot on its host. */
async function snapshotDir({ id }: SandboxResource): Promise<string> {
  for (const host of ["host-1", "host-2"]) {
    const dir = join(fleet.fleet.dir, "hosts", host, "vm", id);
    const name = (await readdir(dir).catch(() => [])).find((entry) => /^snap\.\d+$/.test(entry));
    if (name !== undefined) return join(dir, name);
  }
  throw new Error(`no host holds a snapshot of ${id}`);
}

describe("clones of one golden snapshot", () => {
  test("G1: have their own randomness, names and the right time before any code of theirs runs", async () => {
    const [one, other] = await Promise.all([fleet.createSandbox(), fleet.createSandbox()]);
    const probe = [
      "import os, random, ssl, time, uuid, socket",
      "print(os.urandom(16).hex(), random.random(), ssl.RAND_bytes(8).hex(), uuid.uuid4(), socket.gethostname(), open('/etc/machine-id').read().strip(), sep='|')",
    ].join("\n");
    const [a, b] = await Promise.all([python(one, probe), python(other, probe)]);
    const pairs = a.split("|").map((value, at) => [value, b.split("|")[at]]);
    expect(pairs).toHaveLength(6);
    for (const [mine, theirs] of pairs) expect(mine).not.toBe(theirs);
    expect(await shell(one, "hostname")).toBe(one.id);
    expect(
      Math.abs(Number(await python(one, "print(time.time())")) - Date.now() / 1000),
    ).toBeLessThan(30);
    const openssl = await Promise.all(
      [one, other].map((sandbox) =>
        shell(
          sandbox,
          "node -e \"console.log(require('crypto').randomBytes(16).toString('hex'))\"",
        ),
      ),
    );
    expect(openssl[0]).toMatch(/^[0-9a-f]{32}$/);
    expect(openssl[0]).not.toBe(openssl[1]);
    await Promise.all([remove(one), remove(other)]);
  });

  test("S47: after a resume the clock is right and the randomness is new", async () => {
    const sandbox = await fleet.createSandbox();
    await python(sandbox, "import os, time; before = os.urandom(16)");
    await fleet.client.sandboxes.pause(sandbox.id);
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    await fleet.client.sandboxes.resume(sandbox.id);
    expect(
      Math.abs(Number(await python(sandbox, "print(time.time())")) - Date.now() / 1000),
    ).toBeLessThan(30);
    expect(await python(sandbox, "print(before != os.urandom(16))")).toBe("True");
    await remove(sandbox);
  });
});

describe("files", () => {
  test("S6, G3: a file written just before the pause is there after pause, stop and start", async () => {
    const sandbox = await fleet.createSandbox();
    await python(sandbox, "open('/workspace/late', 'w').write('y' * 1_000_000)");
    await fleet.client.sandboxes.pause(sandbox.id);
    expect(await fleet.client.sandboxes.stop(sandbox.id)).toMatchObject({ status: "stopped" });
    expect(await fleet.client.sandboxes.start(sandbox.id)).toMatchObject({ status: "running" });
    expect(await python(sandbox, "print(open('/workspace/late').read().count('y'))")).toBe(
      "1000000",
    );
    await remove(sandbox);
  });

  test(
    "S1: three stops and starts keep what each run wrote, and what it deleted stays deleted",
    { tags: ["exhaustive"] },
    async () => {
      const sandbox = await fleet.createSandbox();
      for (const round of [1, 2, 3]) {
        await shell(
          sandbox,
          `echo ${round} >> /root/rounds; touch /workspace/r${round}; rm -f /workspace/r${round - 1} /etc/motd`,
        );
        await fleet.client.sandboxes.stop(sandbox.id);
        await fleet.client.sandboxes.start(sandbox.id);
      }
      expect(
        await shell(
          sandbox,
          "tr '\\n' ' ' < /root/rounds; ls /workspace; ls /etc/motd 2>/dev/null",
        ),
      ).toBe("1 2 3 r3");
      await remove(sandbox);
    },
  );
});

describe("a damaged memory image is refused before the point of no return, the sandbox stays paused, and the whole image still resumes", () => {
  type Damage = (file: string) => Promise<void>;
  const missing: Damage = async (file) => await rm(file);
  const short: Damage = async (file) => await truncate(file, (await stat(file)).size - 1);
  const flipped: Damage = async (file) => {
    const handle = await open(file, "r+");
    const at = Math.floor((await handle.stat()).size / 2);
    const byte = Buffer.alloc(1);
    await handle.read(byte, 0, 1, at);
    byte[0] = (byte[0] ?? 0) ^ 1;
    await handle.write(byte, 0, 1, at);
    await handle.close();
  };

  async function isRefused(damage: Damage): Promise<void> {
    const sandbox = await fleet.createSandbox();
    await python(sandbox, "x = 42");
    await fleet.client.sandboxes.pause(sandbox.id);
    const memory = join(await snapshotDir(sandbox), "memory");
    await copyFile(memory, `${memory}.whole`);
    await damage(memory);
    await expect(fleet.client.sandboxes.resume(sandbox.id)).rejects.toMatchObject({
      status: 409,
      code: "SNAPSHOT_INVALID",
    });
    expect(await status(sandbox)).toBe("paused");
    await rename(`${memory}.whole`, memory);
    expect(await fleet.client.sandboxes.resume(sandbox.id)).toMatchObject({ status: "running" });
    expect(await python(sandbox, "print(x)")).toBe("42");
    await remove(sandbox);
  }

  test("S4: with one bit flipped", () => isRefused(flipped));
  test.each([["missing", missing] as const, ["short", short] as const])(
    "S4: %s",
    { tags: ["exhaustive"] },
    (_, damage) => isRefused(damage),
  );
});
