/**
 * The scheme for one machine, which needs no name server: each sandbox has an address of its own in 127/8, where its agent's port and every port that its guest listens on are
 * served, each by a listener.
 *
 * LB1  Listeners are shared with other gateways on the machine (SO_REUSEPORT).
 * LB2  A listener is closed only on the word of a read that began after it was opened, so a sandbox that is just being created is never cut off.
 * LB3  Preview ports are open while the sandbox runs; while it is paused they stay open if traffic may wake it.
 */
import { findSandboxByEdgeAddress, listEdgeSandboxes, type EdgeSandbox } from "@torpor/db";
import { GUEST_AGENT_PORT } from "@torpor/contracts";
import { type CarryDependencies, carryRequest, carryUpgrade } from "./carry.ts";
import type { Door } from "./door.ts";
import type { Edge } from "./edge.ts";
import { offeredPorts, watchPorts } from "./preview-ports.ts";
import { createEdgeServer, type EdgeServer } from "./server.ts";
import { targetOf } from "./target.ts";

/** Per listener: more than an address may have without a credential (CONNECTIONS_PER_ADDRESS). Others time out on the client's side. */
const MAX_CONNECTIONS = 2_048;

interface Listener {
  edgeServer: EdgeServer;
  listening: Promise<boolean>;
}

/** The preview ports of one sandbox. */
interface Previews {
  address: string;
  ports: Set<number>;
  /** The run that is being watched. */
  watch?: { run: string; abort: AbortController } | undefined;
}

export interface LoopbackOptions extends CarryDependencies {
  /** On which agents are served. */
  port: number;
}

export class LoopbackEdge implements Edge {
  private readonly options: LoopbackOptions;
  /** By `<address>:<port>`. */
  private readonly listeners = new Map<string, Listener>();
  private readonly previews = new Map<string, Previews>();
  /** What could not be listened on: reported once, tried again in each round. */
  private readonly failing = new Set<string>();
  /** Nothing is opened any more. */
  private isDraining = false;

  constructor(options: LoopbackOptions) {
    this.options = options;
  }

  publicHost({ edgeAddress }: { edgeAddress: string }): string {
    return `http://${edgeAddress}:${this.options.port}`;
  }

  previewOrigin({ edgeAddress }: { edgeAddress: string }, port: number): string {
    return `http://${edgeAddress}:${port}`;
  }

  async serve({ edgeAddress }: { edgeAddress: string }): Promise<void> {
    await this.open(edgeAddress, this.options.port, GUEST_AGENT_PORT);
  }

  /** Opens what is missing and closes what is gone. */
  async reconcile(): Promise<Record<string, number>> {
    const before = [...this.listeners.keys()];
    const sandboxes = await listEdgeSandboxes(this.options.db);
    for (const sandbox of sandboxes) this.lookAfterPreviews(sandbox);
    const living = new Set(sandboxes.map(({ id }) => id));
    for (const id of this.previews.keys()) if (!living.has(id)) this.endPreviews(id);
    const wanted = new Set(sandboxes.map(({ edgeAddress }) => `${edgeAddress}:${this.options.port}`));
    for (const { address, ports } of this.previews.values()) for (const port of ports) wanted.add(`${address}:${port}`);
    const opened = await Promise.all([
      ...sandboxes.map(({ edgeAddress }) => this.open(edgeAddress, this.options.port, GUEST_AGENT_PORT)),
      ...[...this.previews.values()].flatMap(({ address, ports }) => [...ports].map((port) => this.open(address, port, port))),
    ]);
    const gone = before.filter((key) => !wanted.has(key));
    for (const key of gone) this.shut(key);
    for (const key of this.failing) if (!wanted.has(key)) this.failing.delete(key);
    return { serving: this.listeners.size, failing: opened.filter((listens) => !listens).length, closed: gone.length };
  }

  async drain(): Promise<void> {
    this.isDraining = true;
    for (const { watch } of this.previews.values()) watch?.abort.abort();
    await Promise.all([...this.listeners.values()].map(({ edgeServer }) => edgeServer.drain()));
  }

  close(): Promise<void> {
    for (const id of this.previews.keys()) this.endPreviews(id);
    for (const key of this.listeners.keys()) this.shut(key);
    return Promise.resolve();
  }

  /** Watches the ports of a run while it lasts (LB3). */
  private lookAfterPreviews(sandbox: EdgeSandbox): void {
    const { id, edgeAddress: address, settledState, autoResume, host } = sandbox;
    const isOffered = settledState === "running" || (settledState === "paused" && autoResume);
    if (!isOffered) return this.endPreviews(id);
    const previews = this.previews.get(id) ?? { address, ports: new Set<number>() };
    this.previews.set(id, previews);
    if (settledState !== "running" || host === null) {
      previews.watch?.abort.abort();
      previews.watch = undefined;
      return;
    }
    const target = targetOf({ sandboxId: id, epoch: sandbox.epoch, host }, GUEST_AGENT_PORT, this.options.hostKeys);
    if (target instanceof Error || previews.watch?.run === target.run) return;
    previews.watch?.abort.abort();
    const watch = { run: target.run, abort: new AbortController() };
    previews.watch = watch;
    void watchPorts(target, {
      onPorts: (ports) => this.offer(id, previews, ports),
      signal: watch.abort.signal,
      log: this.options.log,
    }).then(() => {
      // The next round begins another if the sandbox runs all the same.
      if (previews.watch === watch) previews.watch = undefined;
    });
  }

  private async offer(sandboxId: string, previews: Previews, ports: number[]): Promise<void> {
    if (this.previews.get(sandboxId) !== previews) return;
    const offered = new Set(offeredPorts(ports, this.options.port));
    for (const port of previews.ports) if (!offered.has(port)) this.shut(`${previews.address}:${port}`);
    previews.ports = offered;
    await Promise.all([...offered].map((port) => this.open(previews.address, port, port)));
  }

  private endPreviews(sandboxId: string): void {
    const previews = this.previews.get(sandboxId);
    if (previews === undefined) return;
    this.previews.delete(sandboxId);
    previews.watch?.abort.abort();
    for (const port of previews.ports) this.shut(`${previews.address}:${port}`);
  }

  private shut(key: string): void {
    const listener = this.listeners.get(key);
    this.listeners.delete(key);
    listener?.edgeServer.shut();
  }

  /** `guestPort` is where a listener on `port` leads. */
  private open(address: string, port: number, guestPort: number): Promise<boolean> {
    if (this.isDraining) return Promise.resolve(false);
    const key = `${address}:${port}`;
    const known = this.listeners.get(key);
    if (known !== undefined) return known.listening;
    const door: Door = { name: key, port: guestPort, scheme: "http", find: (db) => findSandboxByEdgeAddress(db, address) };
    const edgeServer = createEdgeServer(
      {
        request: (incoming, response) => carryRequest(this.options, door, incoming, response),
        upgrade: (incoming, socket, head) => carryUpgrade(this.options, door, incoming, socket, head),
      },
      { maxConnections: MAX_CONNECTIONS, ...this.options },
    );
    const listener: Listener = { edgeServer, listening: this.listen(edgeServer, address, port) };
    this.listeners.set(key, listener);
    void listener.listening.then((listens) => {
      if (!listens && this.listeners.get(key) === listener) this.listeners.delete(key);
    });
    return listener.listening;
  }

  private listen({ server }: EdgeServer, address: string, port: number): Promise<boolean> {
    const key = `${address}:${port}`;
    return new Promise((resolve) => {
      server.on("error", (err) => {
        if (!this.failing.has(key))
          this.options.log.error({ err, address, port }, "edge address cannot be listened on; tried again every few seconds");
        this.failing.add(key);
        resolve(false);
      });
      server.listen({ host: address, port, reusePort: true }, () => {
        this.failing.delete(key);
        resolve(true);
      });
    });
  }
}
