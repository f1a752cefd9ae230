/**
 * Preview ports on loopback addresses. Each is listened on only at its sandbox's address: a guest
 * may listen on any port, and must not take it from the other programs of this machine.
 *
 * LP1  Ports are open while the sandbox runs; while it is paused they stay open if traffic may
 *      resume it. Other sandboxes cost nothing.
 * - Events name the sandboxes whose rows are read. To find what events missed, each round also
 *   reads a bounded number of rows of running and of known sandboxes.
 * LP3  Listeners and requests to hosts together never take more open files than they were given.
 */
import { createServer, type Server, type Socket } from "node:net";
import type { EdgeSandbox } from "@torpor/db";
import { GUEST_AGENT_PORT, type SandboxEventMessage, type SandboxId } from "@torpor/contracts";
import { isStable, isTombstoned } from "@torpor/state-machine";
import type { FastifyBaseLogger } from "fastify";
import { offeredPorts, watchPorts } from "./preview-ports.ts";
import { type HostKeys, type AgentTarget, targetOf } from "./target.ts";

/** Known sandboxes without an event that each round reads. */
const LOOKED_AFTER = 100;
/** Limit while the database is away; the page-by-page reads find the others. */
const MAX_DUE = 10_000;

interface Known {
  address: string;
  ports: Set<number>;
  /** The run that is being watched. */
  watch?: { run: string; abort: AbortController } | undefined;
}

interface PreviewOptions {
  /** Serves a connection that came to a preview's port. */
  take: (socket: Socket) => void;
  /** The port of guest agents, which is not for previews. */
  taken: number;
  maxFiles: number;
  hostKeys: HostKeys;
  log: FastifyBaseLogger;
}

export class LoopbackPreviews {
  private readonly options: PreviewOptions;
  /** Sandboxes with ports, by id; the least recently read first. */
  private readonly known = new Map<SandboxId, Known>();
  /** Listeners by `<address>:<port>`. */
  private readonly listeners = new Map<string, Server>();
  /** Ids of sandboxes whose rows are to be read. */
  private readonly due = new Set<SandboxId>();
  /** Ports that could not be listened on, by the same key: logged once, retried in each round. */
  private readonly failing = new Map<string, { address: string; port: number }>();
  private watching = 0;
  private isDraining = false;
  private hasReportedFull = false;

  constructor(options: PreviewOptions) {
    this.options = options;
  }

  /** True if a row is to be read because of the event. */
  hear({ sandboxId, from, to }: SandboxEventMessage): boolean {
    const isOver = this.known.has(sandboxId) && (isStable(to) || isTombstoned(to));
    const matters = from !== to && (to === "running" || isOver);
    if (!matters || this.due.size >= MAX_DUE) return false;
    this.due.add(sandboxId);
    return true;
  }

  /** Ids whose rows are to be read now, and given to `follow`. */
  takeDue(limit: number): SandboxId[] {
    const due = [...this.due].slice(0, limit);
    for (const id of due) this.due.delete(id);
    const quiet = [...this.known.keys()].slice(0, Math.min(LOOKED_AFTER, limit - due.length));
    return [...new Set([...due, ...quiet])];
  }

  /** Puts ids back whose rows could not be read. */
  giveBack(ids: SandboxId[]): void {
    for (const id of ids) this.due.add(id);
  }

  /** Applies the rows that were read. A sandbox of `asked` without a row has been deleted. */
  follow(asked: SandboxId[], found: EdgeSandbox[]): void {
    const living = new Set(found.map(({ id }) => id));
    for (const id of asked) if (!living.has(id)) this.end(id);
    for (const sandbox of found) this.lookAfter(sandbox);
  }

  async retry(): Promise<void> {
    const again = [...this.failing.values()];
    await Promise.all(again.map(({ address, port }) => this.open(address, port)));
  }

  isFull(): boolean {
    return this.listeners.size + this.watching >= this.options.maxFiles;
  }

  counts(): Record<string, number> {
    const { listeners, watching, failing, due } = this;
    return { serving: listeners.size, watching, failing: failing.size, due: due.size };
  }

  /** Ends all watches and listeners, and opens no more; connections continue. */
  drain(): void {
    this.isDraining = true;
    for (const { watch } of this.known.values()) watch?.abort.abort();
    for (const server of this.listeners.values()) server.close();
  }

  close(): void {
    this.isDraining = true;
    for (const id of this.known.keys()) this.end(id);
  }

  private lookAfter(sandbox: EdgeSandbox): void {
    const { id, edgeAddress: address, settledState, autoResume, host } = sandbox;
    const isOffered = settledState === "running" || (settledState === "paused" && autoResume);
    if (!isOffered) return this.end(id);
    const known = this.known.get(id) ?? { address, ports: new Set<number>() };
    // Moved to the end: read again after all others.
    this.known.delete(id);
    this.known.set(id, known);
    const run =
      settledState === "running" && host !== null
        ? { sandboxId: id, epoch: sandbox.epoch, host }
        : undefined;
    const target = run && targetOf(run, GUEST_AGENT_PORT, this.options.hostKeys);
    if (target === undefined) {
      known.watch?.abort.abort();
      known.watch = undefined;
    } else if (!(target instanceof Error) && known.watch?.run !== target.run) {
      this.watch(id, known, target);
    }
    if (known.watch === undefined && known.ports.size === 0) this.known.delete(id);
  }

  private watch(id: SandboxId, known: Known, target: AgentTarget): void {
    known.watch?.abort.abort();
    known.watch = undefined;
    if (this.isDraining || !this.hasRoom()) return;
    const watch = { run: target.run, abort: new AbortController() };
    known.watch = watch;
    this.watching += 1;
    void watchPorts(target, {
      onPorts: (ports) => this.offer(id, known, ports),
      signal: watch.abort.signal,
      log: this.options.log,
    }).then(() => {
      this.watching -= 1;
      if (known.watch !== watch) return;
      // The run has ended; if not, the next round begins another watch.
      known.watch = undefined;
      this.due.add(id);
    });
  }

  private async offer(sandboxId: SandboxId, known: Known, ports: number[]): Promise<void> {
    if (this.known.get(sandboxId) !== known) return;
    const offered = new Set(offeredPorts(ports, this.options.taken));
    for (const port of known.ports) if (!offered.has(port)) this.shut(known.address, port);
    known.ports = offered;
    await Promise.all([...offered].map((port) => this.open(known.address, port)));
  }

  private end(sandboxId: SandboxId): void {
    const known = this.known.get(sandboxId);
    if (known === undefined) return;
    this.known.delete(sandboxId);
    known.watch?.abort.abort();
    known.watch = undefined;
    for (const port of known.ports) this.shut(known.address, port);
  }

  /** Closes a listener. Its connections continue as long as the sandbox runs. */
  private shut(address: string, port: number): void {
    const key = `${address}:${port}`;
    this.failing.delete(key);
    this.listeners.get(key)?.close();
    this.listeners.delete(key);
  }

  private async open(address: string, port: number): Promise<void> {
    const key = `${address}:${port}`;
    if (this.isDraining || this.listeners.has(key)) return;
    if (!this.hasRoom()) {
      this.failing.set(key, { address, port });
      return;
    }
    const { take, log } = this.options;
    const server = createServer({ allowHalfOpen: true }, take);
    this.listeners.set(key, server);
    await new Promise<void>((resolve) => {
      server.on("error", (err) => {
        if (!this.failing.has(key))
          log.error(
            { err, address, port },
            "preview could not be listened on; retried every few seconds",
          );
        if (this.listeners.get(key) === server) {
          this.listeners.delete(key);
          this.failing.set(key, { address, port });
        }
        resolve();
      });
      server.listen({ host: address, port, reusePort: true }, () => {
        this.failing.delete(key);
        resolve();
      });
    });
  }

  private hasRoom(): boolean {
    if (!this.isFull()) return true;
    const { log, maxFiles } = this.options;
    if (!this.hasReportedFull)
      log.warn(
        { maxFiles },
        "previews have all the open files that they may, and some are not served: raise `ulimit -n`",
      );
    this.hasReportedFull = true;
    return false;
  }
}
