/**
 * A number of bytes that several holders share. What is taken is given back; what is not there is
 * not waited for.
 */
export class Budget {
  private leftBytes: number;

  constructor(limitBytes: number) {
    this.leftBytes = limitBytes;
  }

  /** All of it, or nothing and false. */
  take(bytes: number): boolean {
    if (bytes > this.leftBytes) return false;
    this.leftBytes -= bytes;
    return true;
  }

  /** As much of it as there is. */
  takeUpTo(bytes: number): number {
    const taken = Math.min(bytes, this.leftBytes);
    this.leftBytes -= taken;
    return taken;
  }

  give(bytes: number): void {
    this.leftBytes += bytes;
  }
}
