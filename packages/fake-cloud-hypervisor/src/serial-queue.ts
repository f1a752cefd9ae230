/**
 * Runs one task at a time, in order: the real one has a single control thread behind a single HTTP
 * thread.
 */
export class SerialQueue {
  private tail: Promise<unknown> = Promise.resolve();

  run<T>(body: () => T | Promise<T>): Promise<T> {
    const result = this.tail.then(body);
    this.tail = result.catch(() => {});
    return result;
  }
}
