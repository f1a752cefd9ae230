/**
 * The two toy guests behind one interface: @torpor/simulated-guest in this process, and the
 * simulated driver's program as a separate process.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { type AddressInfo, createConnection } from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { claimPort } from "@torpor/service";
import { SimulatedGuest } from "@torpor/simulated-guest";
import { tempDir, until } from "@torpor/testkit";
import { simulatedVmm } from "../../src/drivers/simulated/program.ts";

export const DISK_BYTES = 262_144;
export const TOY_NAMES = ["typescript", "python"] as const;
export type ToyName = (typeof TOY_NAMES)[number];

export interface Toy extends AsyncDisposable {
  port: number;
  diskPath: string;
  run(): Promise<void>;
  pause(): Promise<void>;
  saveMemory(): Promise<Buffer>;
  loadMemory(image: Buffer): Promise<void>;
  /** Exit code when the toy ends by itself: 0 after a power-off. */
  exitCode: Promise<number | null>;
}

export interface ToyProcess extends Toy {
  pid: number;
  /**
   * Sends a line to the control socket. Returns the response, empty if the connection closes
   * without one.
   */
  control(line: string): Promise<string>;
  end(signal: NodeJS.Signals): Promise<NodeJS.Signals | null>;
}

/** Starts a toy with paused vCPUs. */
export async function startToy(name: ToyName): Promise<Toy> {
  return name === "python" ? await startProcess() : await startInProcess();
}

async function startInProcess(): Promise<Toy> {
  const dir = await directory();
  const diskPath = join(dir.path, "disk.raw");
  const { promise: exitCode, resolve } = Promise.withResolvers<number>();
  const guest = new SimulatedGuest({ diskPath, onPowerOff: () => resolve(0) });
  await once(guest.server.listen(0, "127.0.0.1"), "listening");
  return {
    port: (guest.server.address() as AddressInfo).port,
    diskPath,
    run: async () => guest.run(),
    pause: async () => guest.pause(),
    saveMemory: async () => guest.saveMemory(),
    loadMemory: async (image) => guest.loadMemory(image),
    exitCode,
    [Symbol.asyncDispose]: async () => {
      guest.server.closeAllConnections();
      guest.server.close();
      await dir[Symbol.asyncDispose]();
    },
  };
}

export async function startProcess(): Promise<ToyProcess> {
  const dir = await directory();
  await mkdir(join(dir.path, "r1"));
  using claimed = await claimPort();
  const { command, args } = await simulatedVmm("r1", claimed.port);
  const child = spawn(command, args, { cwd: dir.path, stdio: "ignore", env: {} });
  const exit = once(child, "exit") as Promise<[number | null, NodeJS.Signals | null]>;
  const end = async (signal: NodeJS.Signals) => {
    child.kill(signal);
    return (await exit)[1];
  };
  const control = async (line: string) => {
    const socket = createConnection({ path: join(dir.path, "r1/control.sock") });
    socket.end(`${line}\n`);
    return await text(socket);
  };
  const tell = async (line: string) => {
    const answer = await control(line);
    if (answer !== "ok") throw new Error(`the answer was "${answer}"`);
  };
  await until("its control socket", () => existsSync(join(dir.path, "r1/control.sock")));
  return {
    pid: child.pid ?? 0,
    port: claimed.port,
    diskPath: join(dir.path, "disk.raw"),
    run: () => tell("run"),
    pause: () => tell("pause"),
    saveMemory: async () => Buffer.from(await control("save"), "base64"),
    loadMemory: (image) => tell(`load ${image.toString("base64")}`),
    exitCode: exit.then(([code]) => code),
    control,
    end,
    [Symbol.asyncDispose]: async () => {
      await end("SIGKILL");
      await dir[Symbol.asyncDispose]();
    },
  };
}

/** A directory with an empty disk. */
async function directory(): Promise<Awaited<ReturnType<typeof tempDir>>> {
  const dir = await tempDir();
  await writeFile(join(dir.path, "disk.raw"), Buffer.alloc(DISK_BYTES));
  return dir;
}
