/**
 * The agent on a vsock: how a host reaches it when the VMM is Cloud Hypervisor. Node.js cannot
 * listen on a vsock, so socat accepts the connections and passes them to the agent's port.
 *
 * An agent that was killed leaves its socat behind. The socat of the next agent then finds the port
 * taken and retries; the old one keeps working.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";

/** Above the agent's own limit; a bound in any case. */
const MAX_CONNECTIONS = 1_024;
const RETRY_MS = 1_000;
/**
 * After one side has ended its half, the other may continue for as long as it likes. By default,
 * socat cuts it after half a second.
 */
const HALF_CLOSED_S = 86_400;

/**
 * Keeps a relay running for as long as this process lives. Does nothing in a guest without a vsock.
 */
export function keepVsockRelay(port: number): void {
  if (!existsSync("/dev/vsock")) return;
  const listen = `VSOCK-LISTEN:${port},fork,backlog=128,max-children=${MAX_CONNECTIONS}`;
  const relay = spawn(
    "socat",
    ["-b", "65536", "-t", String(HALF_CLOSED_S), listen, `TCP4:127.0.0.1:${port},nodelay`],
    {
      stdio: ["ignore", "ignore", "ignore"],
    },
  );
  relay.once("error", (error) =>
    process.stderr.write(`the agent is not reached by vsock: ${error.message}\n`),
  );
  const end = () => relay.kill();
  process.once("exit", end);
  relay.once("exit", () => {
    process.off("exit", end);
    setTimeout(() => keepVsockRelay(port), RETRY_MS).unref();
  });
}
