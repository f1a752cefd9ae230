/** Collects what a program prints, up to a limit: user code that prints without end must not take the agent's memory. */
export class BoundedOutput {
  private readonly limitBytes: number;
  private readonly chunks: Buffer[] = [];
  private sizeBytes = 0;
  private cutBytes = 0;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  add(data: Buffer | string): void {
    const chunk = typeof data === "string" ? Buffer.from(data) : data;
    const room = this.limitBytes - this.sizeBytes;
    if (chunk.length > room) this.cutBytes += chunk.length - room;
    if (room <= 0) return;
    const kept = chunk.length > room ? chunk.subarray(0, room) : chunk;
    this.chunks.push(kept);
    this.sizeBytes += kept.length;
  }

  toString(): string {
    const text = Buffer.concat(this.chunks).toString("utf8");
    return this.cutBytes === 0 ? text : `${text}\n[${this.cutBytes} more bytes were cut]\n`;
  }
}
