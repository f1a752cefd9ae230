/** What is known of each user of the NATS servers, in the directory of their secrets. */
import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createNatsKey, publicKeyOf } from "../../packages/bus/src/nats-key.ts";

/**
 * Files of a user: `<name>.seed`, `<name>.2.seed` and so on, NKeys; `<name>`, a password. All of
 * them
 * open the servers, so that one can take another's place while everything runs.
 */
export class Secrets {
  private readonly dir: string;
  private readonly mayMake: boolean;

  /** `mayMake` false: what is missing is an error. Another server has it, and this one may not. */
  constructor(dir: string, mayMake: boolean) {
    this.dir = dir;
    this.mayMake = mayMake;
    mkdirSync(dir, { recursive: true, mode: 0o700 });
  }

  /** A user without any gets a key; with `isNew`, one more. Throws where a file holds no seed. */
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

  /** Made when it is not there. */
  password(name: string): string {
    return this.read(name) ?? this.write(name, randomBytes(32).toString("hex"));
  }

  private seedsOf(name: string): string[] {
    const own = (file: string) =>
      file === `${name}.seed` ||
      (file.startsWith(`${name}.`) && /^\.\d+\.seed$/.test(file.slice(name.length)));
    return readdirSync(this.dir).filter(own).toSorted();
  }

  /** After the highest number that there is: the ones before it may have been removed. */
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

  /** Never over what is there. */
  private write(name: string, secret: string): string {
    if (!this.mayMake)
      throw new Error(
        `${join(this.dir, name)} is missing: copy it from where the first configuration was made`,
      );
    writeFileSync(join(this.dir, name), secret, { mode: 0o600, flag: "wx" });
    return secret;
  }
}
