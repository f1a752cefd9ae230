/** What is worth keeping of what was worked out: those used last, so many at most. */
export class Recent<Value> {
  private readonly max: number;
  /** Those used last behind. */
  private readonly values = new Map<string, Value>();

  constructor(max: number) {
    this.max = max;
  }

  get(key: string): Value | undefined {
    const value = this.values.get(key);
    if (value === undefined) return undefined;
    this.values.delete(key);
    this.values.set(key, value);
    return value;
  }

  getOrMake(key: string, make: () => Value): Value {
    const value = this.get(key) ?? make();
    this.set(key, value);
    return value;
  }

  set(key: string, value: Value): void {
    this.values.set(key, value);
    const [oldest] = this.values.keys();
    if (this.values.size > this.max && oldest !== undefined) this.values.delete(oldest);
  }
}
