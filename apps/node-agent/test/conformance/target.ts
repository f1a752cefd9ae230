/** The target of the driver suite (driver and image), and the operations on a VM of it. */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createReadStream } from "node:fs";
import { mkdir, readFile, rename, rm } from "node:fs/promises";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { dirname, join } from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { GUEST_AGENT_KEY_HEADER } from "@torpor/contracts";
import { findProcesses, isAlive, type ProcessIdentity } from "@torpor/service";
import { type Driver, hostNameOf, type SavedMemory, type Vm } from "../../src/drivers/driver.ts";
import { connectGuest } from "../../src/guest-connection.ts";
import type { Image } from "../../src/images/images.ts";
import { linkImage } from "../../src/lifecycle/disk.ts";
import { findGolden, makeDisk } from "../../src/images/golden.ts";
import { httpGuest } from "../../src/lifecycle/guest.ts";
import type { VmRecord } from "../../src/lifecycle/record.ts";

export interface DriverTarget {
  name: string;
  /** A fresh driver object without any state, as in a restarted agent. */
  makeDriver(): Promise<Driver>;
  image: Image;
  uid: number | undefined;
  /** Directory with room for a few VMs. */
  dir: string;
  /** Limit of a guest's boot on the slowest machine. */
  bootLimitMs: number;
  /** Name, in a run's directory, of the VMM's control socket. */
  controlSocket: string;
  /** Removes what the VMs had around them. */
  close(): Promise<void>;
}

export const NEVER = new AbortController().signal;
const AGENT_KEY = "k".repeat(64);
const GONE_LIMIT_MS = 15_000;

/** A VM of a target, and a driver that can be replaced by a fresh one. */
export class Subject {
  readonly target: DriverTarget;
  vm: Vm;
  driver: Driver;

  constructor(target: DriverTarget, vm: Vm, driver: Driver) {
    this.target = target;
    this.vm = vm;
    this.driver = driver;
  }

  static async make(target: DriverTarget, name: string): Promise<Subject> {
    const { vcpu, memoryMib, diskMib } = target.image.defaults;
    const dir = join(target.dir, name);
    await mkdir(target.dir, { recursive: true });
    const vm: Vm = {
      dir,
      sandboxId: name,
      vcpu,
      memoryMib,
      kernelCmdline: target.image.kernelCmdline,
      internetAccess: false,
    };
    await linkImage({ uid: target.uid }, target.image, dir, (path) => makeDisk(path, diskMib));
    return new Subject(target, vm, await target.makeDriver());
  }

  /** Replaces the driver, as a restart of the agent does. */
  async forget(): Promise<void> {
    this.driver = await this.target.makeDriver();
  }

  /**
   * Runs a guest with an identity and a variable to remember. The guest comes from the golden
   * snapshot if the image has one, because a boot is many times slower.
   */
  async runWith(x: number): Promise<void> {
    const limit = AbortSignal.timeout(this.target.bootLimitMs);
    const golden = await findGolden(this.target.image, this.driver);
    if (golden === undefined) await this.driver.boot(this.vm, limit);
    else {
      const { files, driverFingerprint: fingerprint } = golden.manifest;
      const restored = await this.driver.restore(
        this.vm,
        golden.dir,
        { files, fingerprint },
        limit,
      );
      if (restored.kind === "refused")
        throw new Error(`the golden snapshot was refused: ${restored.reason}`);
      await this.driver.resumeVcpus(this.vm);
    }
    await this.becomes();
    await this.execute(`x = ${x}`);
  }

  async becomes(): Promise<void> {
    const guest = httpGuest(this.driver);
    if (!(await guest.waitHealthy(this.vm, this.target.bootLimitMs, NEVER)))
      throw new Error("the guest's agent did not answer");
    const spec = { sandboxId: this.vm.sandboxId };
    await guest.initGuest(this.vm, {
      spec,
      machineId: "0".repeat(32),
      agentKey: AGENT_KEY,
    } as VmRecord);
  }

  /** Quiesces the guest and pauses its vCPUs, as a pause does. */
  async pause(): Promise<void> {
    await httpGuest(this.driver).preparePause(this.vm, AGENT_KEY);
    await this.driver.pauseVcpus(this.vm);
  }

  /** Resumes a restored or paused guest. */
  async goOn(): Promise<void> {
    await this.driver.resumeVcpus(this.vm);
    const guest = httpGuest(this.driver);
    if (!(await guest.waitHealthy(this.vm, this.target.bootLimitMs, NEVER)))
      throw new Error("the guest's agent did not answer");
    await guest.thaw(this.vm, AGENT_KEY);
  }

  async save(name = "snap.1"): Promise<{ dir: string; saved: SavedMemory }> {
    const dir = join(this.vm.dir, name);
    await rm(dir, { recursive: true, force: true });
    await mkdir(dir, { mode: 0o700 });
    return { dir, saved: await this.driver.saveMemory(this.vm, dir, NEVER) };
  }

  async restore({ dir, saved }: { dir: string; saved: SavedMemory }, signal = NEVER) {
    return await this.driver.restore(this.vm, dir, saved, signal);
  }

  async execute(code: string): Promise<string> {
    const answer = await this.call("/execute", { code, language: "python" });
    return String(answer["stdout"]).trim();
  }

  async remembers(): Promise<string> {
    return await this.execute("print(x)");
  }

  /** Calls the guest's agent; a GET if there is no body. */
  async call(path: string, body?: object): Promise<Record<string, unknown>> {
    const address = await this.driver.guestAddress(this.vm);
    if (address === undefined) throw new Error("no VMM runs");
    const socket = await connectGuest(address);
    const content = body === undefined ? "" : JSON.stringify(body);
    const method = body === undefined ? "GET" : "POST";
    const headers = {
      "content-type": "application/json",
      "content-length": Buffer.byteLength(content),
      [GUEST_AGENT_KEY_HEADER]: AGENT_KEY,
    };
    const request = httpRequest({
      createConnection: () => socket,
      method,
      path,
      headers,
      signal: AbortSignal.timeout(this.target.bootLimitMs),
    });
    request.end(content);
    const [response] = (await once(request, "response")) as [IncomingMessage];
    return JSON.parse(await text(response)) as Record<string, unknown>;
  }

  async status(): Promise<string> {
    return (await this.driver.inspect(this.vm)).kind;
  }

  /** Waits for the effect of a kill or a stop of the process. */
  async becomesStatus(kind: string): Promise<boolean> {
    const deadline = performance.now() + GONE_LIMIT_MS;
    while (performance.now() < deadline) {
      if ((await this.status()) === kind) return true;
      await sleep(50);
    }
    return false;
  }

  /** Every VMM process of this VM, recorded or not. */
  processes(): ProcessIdentity[] {
    return findProcesses(this.vm.dir, "TORPOR_VMM", hostNameOf(this.vm)).filter(isAlive);
  }

  vmm(): ProcessIdentity {
    const [found, ...others] = this.processes();
    if (found === undefined || others.length > 0)
      throw new Error(`${this.processes().length} VMM processes, not one`);
    return found;
  }

  async runDir(): Promise<string> {
    const { runDir } = JSON.parse(await readFile(join(this.vm.dir, "run.json"), "utf8")) as {
      runDir: string;
    };
    return join(this.vm.dir, runDir);
  }

  /** Moves the VM's directory, as to another host that got its files. */
  async moveTo(name: string): Promise<void> {
    const dir = join(dirname(this.vm.dir), name);
    await rename(this.vm.dir, dir);
    this.vm = { ...this.vm, dir };
  }

  async dispose(): Promise<void> {
    await this.driver.end(this.vm, { graceMs: 0 });
    await rm(this.vm.dir, { recursive: true, force: true });
  }
}

export async function sha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }))
    hash.update(chunk as Buffer);
  return hash.digest("hex");
}
