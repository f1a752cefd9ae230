/** The secrets of each user of the NATS servers, in one directory. */
import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createNatsKey, publicKeyOf } from "../../packages/bus/src/nats-key.ts";

/**
 * Files of a user: NKeys in `<name>.seed`, `<name>.2.seed` and so on, and a password in `<name>`.
 * All of them are valid at the servers, so that one can replace another while everything runs.
 */
export class Secrets {
  private readonly dir: string;
  private readonly mayMake: boolean;

  /** `mayMake` false: a missing file is an error, because another server has it. */
  constructor(dir: string, mayMake: boolean) {
    this.dir = dir;
    this.mayMake = mayMake;
    mkdirSync(dir, { recursive: true, mode: 0o700 });
  }

  /**
   * A user without a secret gets a key; with `isNew`, an additional one. Throws for a file without
   * a seed.
   */
  of(name: string, isNew: boolean): { publicKeys: string[]; password: string | undefined } {
    const password = this.read(name);
    const seeds = this.seedsOf(name);
    if (isNew || (seeds.length === 0 && password === undefined))
      seeds.push(this.makeSeed(name, seeds));
    return { publicKeys: seeds.map((file) => this.publicKeyIn(file)), password };
  }

  has(name: string): boolean {
    return this.seedsOf(name).length > 0 || this.read(name) !== undefined;
  }

  /** Created if missing. */
  password(name: string): string {
    return this.read(name) ?? this.write(name, randomBytes(32).toString("hex"));
  }

  private seedsOf(name: string): string[] {
    const own = (file: string) =>
      file === `${name}.seed` ||
      (file.startsWith(`${name}.`) && /^\.\d+\.seed$/.test(file.slice(name.length)));
    return readdirSync(this.dir).filter(own).toSorted();
  }

  /** Uses the number after the highest one: files with lower numbers may have been removed. */
  private makeSeed(name: string, seeds: readonly string[]): string {
    const numbers = seeds.map((file) => Number(/\.(\d+)\.seed$/.exec(file)?.[1] ?? 1));
    const file = seeds.length === 0 ? `${name}.seed` : `${name}.${Math.max(...numbers) + 1}.seed`;
    this.write(file, createNatsKey().seed);
    return file;
  }

  private publicKeyIn(file: string): string {
    try {
      return publicKeyOf(this.read(file) ?? "");
    } catch (cause) {
      throw new Error(
        `${join(this.dir, file)} holds no seed of a NATS user (it begins with SU): remove it, or put one there`,
        { cause },
      );
    }
  }

  private read(name: string): string | undefined {
    try {
      return readFileSync(join(this.dir, name), "utf8").trim();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
  }

  /** Never overwrites a file. */
  private write(name: string, secret: string): string {
    if (!this.mayMake)
      throw new Error(
        `${join(this.dir, name)} is missing: copy it from where the first configuration was made`,
      );
    writeFileSync(join(this.dir, name), secret, { mode: 0o600, flag: "wx" });
    return secret;
  }
}
