/**
 * A fake of Cloud Hypervisor v53.0 for tests: its command line, API, files, locks and exit codes,
 * without a VM. tests/conformance checks the fake and the real one against the same cases.
 *
 * - The fake responds, and leaves files, as v53.0 was seen to. It reports what it cannot do, and
 *   does not pretend.
 * - The fake runs one call at a time, also when the process is asked to end: a hung call makes it
 *   ignore SIGTERM.
 * - The kernel releases everything that the fake holds when the process ends: sockets and locks.
 */
import { openSync, rmSync } from "node:fs";
import { handleRequest } from "./api.ts";
import { parseCommandLine } from "./command-line.ts";
import { Faults } from "./faults.ts";
import { ApiServer } from "./http-server.ts";
import { tryLock } from "./locks.ts";
import { Reports } from "./reports.ts";
import { SerialQueue } from "./serial-queue.ts";
import { Vmm } from "./vmm.ts";

async function main(): Promise<void> {
  const options = parseCommandLine(process.argv.slice(2));
  if (options.showVersion) return void process.stdout.write("cloud-hypervisor v53.0.0\n");
  if (options.apiSocket === undefined)
    throw new Error("the fake has no VM of its own: give --api-socket path=<path>");
  process.umask(0o077);
  const reports = new Reports(options.eventMonitor, options.logFile);
  reports.event("vmm", "starting");
  lockSocket(options.apiSocket);
  rmSync(options.apiSocket, { force: true });

  const queue = new SerialQueue();
  const faults = new Faults();
  const end = (cause: string) => {
    reports.say("INFO", cause);
    vmm.shutdownVmm();
    server.close();
    reports.close();
    process.exit(0);
  };
  const vmm = new Vmm(reports, faults, () => void queue.run(() => end("VM guest exit event")));
  const server = new ApiServer(queue, (request) =>
    handleRequest(request, vmm, faults, () => end("API request event: VmmShutdown")),
  );
  for (const signal of ["SIGTERM", "SIGINT"] as const)
    process.on(signal, () => void queue.run(() => end("VM exit event")));
  await server.listen(options.apiSocket);
}

/** Locks the API socket as long as this process lives. The lock file itself is never removed. */
function lockSocket(socketPath: string): void {
  if (tryLock(openSync(`${socketPath}.lock`, "a"), "exclusive")) return;
  throw new Error("Failed to start the VMM thread", {
    cause: new Error(`API socket "${socketPath}" is already in use by another running instance`),
  });
}

main().catch((error: unknown) => {
  const chain: string[] = [];
  for (let next = error; next instanceof Error; next = next.cause)
    chain.push(`  ${chain.length}: ${next.message}`);
  process.stderr.write(
    `Error: Cloud Hypervisor exited with the following chain of errors:\n${chain.join("\n")}\n`,
  );
  process.exit(1);
});
