/** Cache of the values that were used last, at most `max`. */
export class Recent<Value> {
  private readonly max: number;
  /** In order of use, the last used at the end. */
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
