/** Reports of the process: its event stream and its log. */
import { closeSync, constants, openSync, writeSync } from "node:fs";

const startedAt = process.hrtime.bigint();
const NANOS_PER_SECOND = 1_000_000_000n;

function sinceStart(): { secs: number; nanos: number } {
  const elapsed = process.hrtime.bigint() - startedAt;
  return { secs: Number(elapsed / NANOS_PER_SECOND), nanos: Number(elapsed % NANOS_PER_SECOND) };
}

export class Reports {
  private readonly events: number | undefined;
  private readonly log: number | undefined;

  constructor(eventsPath: string | undefined, logPath: string | undefined) {
    const open = (path: string) =>
      openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, 0o666);
    this.events = eventsPath === undefined ? undefined : open(eventsPath);
    this.log = logPath === undefined ? undefined : open(logPath);
  }

  event(source: "vmm" | "vm", event: string): void {
    this.say("INFO", `Event: source = ${source} event = ${event} `);
    if (this.events === undefined) return;
    writeSync(
      this.events,
      `${JSON.stringify({ timestamp: sinceStart(), source, event, properties: null }, undefined, 2)}\n\n`,
    );
  }

  say(level: "INFO" | "WARN" | "ERROR", text: string): void {
    const { secs, nanos } = sinceStart();
    const at = `${String(secs).padStart(3)}.${String(Math.floor(nanos / 1000)).padStart(6, "0")}s`;
    writeSync(
      this.log ?? process.stderr.fd,
      `cloud-hypervisor: ${at}: <vmm> ${level}:fake -- ${text}\n`,
    );
  }

  close(): void {
    for (const file of [this.events, this.log]) if (file !== undefined) closeSync(file);
  }
}
