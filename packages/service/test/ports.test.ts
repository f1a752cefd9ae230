import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { afterEach, expect, test, vi } from "vitest";
import { claimPort, claimPorts, tryClaimPort } from "../src/index.ts";

vi.setConfig({ testTimeout: 30_000 });

const MODULE = new URL("../src/ports.ts", import.meta.url).href;
const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const clean of cleanups.splice(0)) await clean();
});

/** Another process that claims `count` ports and prints them; `end` kills the process. */
async function otherProcess(count: number): Promise<{ ports: number[]; end: () => Promise<void> }> {
  const script = `import { claimPorts } from ${JSON.stringify(MODULE)};
    console.log((await claimPorts(${count})).join(" "));
    process.stdin.resume();`;
  const child = spawn(process.execPath, ["--input-type=module-typescript", "--eval", script], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const end = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  };
  cleanups.push(end);
  const [line] = (await once(child.stdout, "data")) as [Buffer];
  return { ports: line.toString().trim().split(" ").map(Number), end };
}

test("a port that was claimed is free to listen on, and lies outside of those that the kernel gives", async () => {
  const { port } = await claimPort();
  expect(port).toBeGreaterThanOrEqual(20_000);
  expect(port).toBeLessThan(32_768);
  const server = createServer().listen(port, "127.0.0.1");
  cleanups.push(async () => await new Promise((resolve) => server.close(resolve)));
  await once(server, "listening");
});

test("no two processes that choose at the same time get the same port, though nobody listens on it", async () => {
  // Without claims, three draws of 400 out of 12,768 would have about 37 in common.
  const all = await Promise.all([
    claimPorts(400),
    otherProcess(400).then(({ ports }) => ports),
    otherProcess(400).then(({ ports }) => ports),
  ]);
  expect(new Set(all.flat()).size).toBe(1_200);
});

test("a claim ends when it is disposed of, and with its process, however that ends", async () => {
  const other = await otherProcess(1);
  const [theirs = 0] = other.ports;
  expect(await tryClaimPort(theirs)).toBeUndefined();
  await other.end();
  const claimed = await tryClaimPort(theirs);
  expect(claimed?.port).toBe(theirs);
  expect(await tryClaimPort(theirs)).toBeUndefined();
  claimed?.[Symbol.dispose]();
  expect(await tryClaimPort(theirs)).toBeDefined();
});

test("a port that somebody listens on is taken, and looking at it leaves no claim behind", async () => {
  const server = createServer().listen(0, "0.0.0.0");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  expect(await tryClaimPort(port)).toBeUndefined();
  await new Promise((resolve) => server.close(resolve));
  expect((await tryClaimPort(port))?.port).toBe(port);
});
