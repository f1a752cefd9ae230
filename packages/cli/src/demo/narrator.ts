/**
 * Tells a story step by step: the action, the claim, the observation. A claim that does not hold
 * fails the story, which still continues to its end.
 */

export interface Seen {
  [what: string]: string | number | undefined;
}

export class Narrator {
  private readonly write: (line: string) => void;
  private failures: string[] = [];
  private claims = 0;

  constructor(write: (line: string) => void) {
    this.write = write;
  }

  /**
   * Runs one step and prints it with its duration. Throws when the step throws: the later steps
   * would mean nothing.
   */
  async step<T>(
    title: string,
    body: () => Promise<T>,
    seen: (result: T) => Seen | Promise<Seen> = () => ({}),
  ): Promise<T> {
    const startedAt = performance.now();
    try {
      const result = await body();
      const tookMs = Math.round(performance.now() - startedAt);
      this.write(`\n▸ ${title}  ${tookMs.toLocaleString("en")} ms`);
      for (const [what, value] of Object.entries(await seen(result)))
        if (value !== undefined) this.write(`    ${what}: ${value}`);
      return result;
    } catch (cause) {
      this.write(
        `\n✗ ${title}  ${Math.round(performance.now() - startedAt).toLocaleString("en")} ms`,
      );
      throw new Error(`the step "${title}" failed`, { cause });
    }
  }

  /** Checks one claim and prints whether it held. */
  claim(what: string, holds: boolean, observed?: unknown): void {
    this.claims += 1;
    if (holds) {
      this.write(`    ✓ ${what}`);
      return;
    }
    this.failures.push(what);
    this.write(
      `    ✗ ${what}${observed === undefined ? "" : `; seen instead: ${JSON.stringify(observed)}`}`,
    );
  }

  /** Prints the totals. Returns true if every claim held. */
  finish(): boolean {
    if (this.failures.length === 0) {
      this.write(`\nAll ${this.claims} claims checked and true.`);
      return true;
    }
    this.write(`\n${this.failures.length} of ${this.claims} claims were false:`);
    for (const failure of this.failures) this.write(`  ✗ ${failure}`);
    return false;
  }
}

export function mib(bytes: number): string {
  return `${Math.round(bytes / 1024 ** 2).toLocaleString("en")} MiB`;
}
