/**
 * GET /_torpor/ports?after=<etag>: the TCP ports on which programs of this guest listen, for the
 * edge, which opens and closes previews by them. Responds at once when the tag differs from
 * `after`; otherwise when the set changes, or after 20 s.
 */
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const WAIT_MS = 20_000;
const LOOK_EVERY_MS = 500;
const LISTENING = "0A";
const TABLES = ["/proc/net/tcp", "/proc/net/tcp6"];

interface Listening {
  /** Ascending. */
  ports: number[];
  etag: string;
}

/** `agentPort` is this agent's own port, which is no preview. */
export function portsRoute(agentPort: number) {
  return {
    method: "GET",
    path: "/_torpor/ports",
    access: "control" as const,
    handle: ({ query, signal }: { query: URLSearchParams; signal: AbortSignal }) =>
      changedPorts(query.get("after") ?? "", agentPort, signal),
  };
}

async function changedPorts(
  after: string,
  agentPort: number,
  signal: AbortSignal,
): Promise<Listening> {
  const deadline = performance.now() + WAIT_MS;
  for (;;) {
    const tables = await Promise.all(
      TABLES.map((table) => readFile(table, "utf8").catch(() => "")),
    );
    const listening = listeningPorts(tables, agentPort);
    if (listening.etag !== after || performance.now() >= deadline || signal.aborted)
      return listening;
    await sleep(LOOK_EVERY_MS, undefined, { signal }).catch(() => {});
  }
}

/**
 * Reads tables in the form of /proc/net/tcp, addresses and ports in hexadecimal:
 * `  0: 0100007F:1F90 00000000:0000 0A …`.
 */
export function listeningPorts(tables: readonly string[], agentPort: number): Listening {
  const found = tables.flatMap((table) =>
    table
      .split("\n")
      .map((line) => line.trim().split(/\s+/))
      .filter((fields) => fields[3] === LISTENING)
      .map((fields) => Number.parseInt(fields[1]?.split(":").at(-1) ?? "", 16)),
  );
  const ports = [...new Set(found)]
    .filter((port) => port > 0 && port !== agentPort)
    .sort((a, b) => a - b);
  return { ports, etag: ports.join("-") || "none" };
}
