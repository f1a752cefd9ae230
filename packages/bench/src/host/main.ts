/** A process that runs many bench hosts: `bench-host.mjs SETTINGS_FILE`. */
import { readFileSync } from "node:fs";
import type { SandboxId } from "@torpor/contracts";
import { createLogger, runService, startHealthServer } from "@torpor/service";
import { filledId } from "../scale/filled.ts";
import { filledWith } from "./answers.ts";
import { type BenchHost, startBenchHost } from "./bench-host.ts";
import type { BenchHostsSettings } from "./settings.ts";

const CONNECTING_AT_ONCE = 20;
const GRACE_MS = 5_000;

const log = createLogger({ name: "bench-host", level: "warn" });
const [file = ""] = process.argv.slice(2);

await runService(log, { graceMs: GRACE_MS }, async (signal, onClose) => {
  const settings = JSON.parse(readFileSync(file, "utf8")) as BenchHostsSettings;
  const { natsUrl, template, hosts, filled, healthPort } = settings;
  const started: BenchHost[] = [];
  const isRegistered = ({ membership }: BenchHost) => membership.isRegistered;
  const health = await startHealthServer({ host: "127.0.0.1", port: healthPort }, () => ({
    ok: started.length === hosts.length && started.every(isRegistered),
    role: "bench-host",
    registered: started.filter(isRegistered).length,
  }));
  onClose({ what: "health", close: () => health.close() });
  onClose({ what: "hosts", close: () => Promise.all(started.map((host) => host.close())) });
  for (let at = 0; at < hosts.length; at += CONNECTING_AT_ONCE) {
    const starting = hosts.slice(at, at + CONNECTING_AT_ONCE).map((access, offset) =>
      startBenchHost({
        access,
        natsUrl,
        template,
        sandboxes: sandboxesOf(at + offset, hosts.length, filled).map((id) =>
          filledWith(access.hostId, id),
        ),
        signal,
        log,
      }),
    );
    started.push(...(await Promise.all(starting)));
  }
});

/** Sandbox `at` is on the host with number `at % hosts`. */
function sandboxesOf(host: number, hosts: number, filled: number): SandboxId[] {
  const count = Math.max(0, Math.ceil((filled - host) / hosts));
  return Array.from({ length: count }, (_, round) => filledId(round * hosts + host));
}
