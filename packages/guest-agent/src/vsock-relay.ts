/**
 * The agent on a vsock: how a host reaches it where the VMM is Cloud Hypervisor. Node.js cannot
 * listen on one, so socat takes the connections and passes them to the agent's port.
 *
 * An agent that was killed leaves its socat behind; the next agent's own then finds the port taken
 * and tries on, and the one that is there does the work.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";

/** Beyond what the agent takes itself; a bound all the same. */
const MAX_CONNECTIONS = 1_024;
const RETRY_MS = 1_000;
/**
 * After one side has ended its half, the other may go on as long as it likes. socat's default cuts
 * it after half a second.
 */
const HALF_CLOSED_S = 86_400;

/**
 * Keeps a relay running for as long as this process lives. Does nothing in a guest that has no
 * vsock.
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
