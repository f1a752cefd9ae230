/**
 * A number of bytes that several holders share. Every taker gives its bytes back, and no taker
 * waits for bytes that are not free.
 */
export class Budget {
  private leftBytes: number;

  constructor(limitBytes: number) {
    this.leftBytes = limitBytes;
  }

  /** Takes all of `bytes`, or takes none and returns false. */
  take(bytes: number): boolean {
    if (bytes > this.leftBytes) return false;
    this.leftBytes -= bytes;
    return true;
  }

  /** Takes at most `bytes`, and returns the number taken. */
  takeUpTo(bytes: number): number {
    const taken = Math.min(bytes, this.leftBytes);
    this.leftBytes -= taken;
    return taken;
  }

  give(bytes: number): void {
    this.leftBytes += bytes;
  }
}
