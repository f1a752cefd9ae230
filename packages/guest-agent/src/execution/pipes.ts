/**
 * Pipes for the output of users' programs. Node connects its children by socket pairs, which no
 * program can open by name: `echo x > /dev/stderr` would fail. These are named pipes whose names
 * are unlinked as soon as both ends are open.
 */
import { execFile } from "node:child_process";
import { closeSync, constants, mkdirSync, openSync, rmSync, unlinkSync } from "node:fs";
import { Socket } from "node:net";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { promisify } from "node:util";

export interface Pipe {
  /** The end from which the agent reads. */
  stream: Readable;
  /** The program's end. Close it here once the program has inherited it. */
  descriptor: number;
}

/** Pipes made in one go: each go starts a process. */
const MADE_TOGETHER = 64;
const REFILL_BELOW = 16;

export class Pipes {
  private readonly dir: string;
  private readonly paths: string[] = [];
  private made = 0;
  private making: Promise<boolean> | undefined;

  /**
   * `dir` is on a file system that a user cannot fill. The constructor removes the pipes of an
   * earlier agent: its programs hold pipes without names.
   */
  constructor(dir: string) {
    this.dir = dir;
    rmSync(dir, { recursive: true, force: true });
    void this.refill();
  }

  /** Returns undefined when no pipe can be made: users may have removed `mkfifo`. */
  async take(): Promise<Pipe | undefined> {
    // Repeats when concurrent callers took all the new pipes.
    while (this.paths.length === 0) if (!(await this.refill())) return undefined;
    const path = this.paths.shift();
    if (this.paths.length < REFILL_BELOW) void this.refill();
    return path === undefined ? undefined : opened(path);
  }

  /** Returns false when no pipe could be made. */
  private refill(): Promise<boolean> {
    this.making ??= this.make().finally(() => (this.making = undefined));
    return this.making;
  }

  private async make(): Promise<boolean> {
    const paths = Array.from({ length: MADE_TOGETHER }, () =>
      join(this.dir, String((this.made += 1))),
    );
    try {
      mkdirSync(this.dir, { recursive: true, mode: 0o700 });
      await promisify(execFile)("mkfifo", ["-m", "600", ...paths]);
      this.paths.push(...paths);
      return true;
    } catch (error) {
      const [reason = ""] = (error as { stderr?: string }).stderr?.split("\n") ?? [];
      process.stderr.write(
        `no pipes could be made, sockets are used: ${reason || String(error)}\n`,
      );
      return false;
    }
  }
}

function opened(path: string): Pipe | undefined {
  const ends: number[] = [];
  try {
    // Opening both ways at first does not block; the descriptors that remain have one direction
    // each.
    for (const flag of [constants.O_RDWR, constants.O_RDONLY, constants.O_WRONLY])
      ends.push(openSync(path, flag));
    unlinkSync(path);
  } catch {
    for (const end of ends) closeSync(end);
    return undefined;
  }
  const [both = -1, reading = -1, descriptor = -1] = ends;
  closeSync(both);
  const stream = new Socket({ fd: reading, readable: true, writable: false });
  return { stream, descriptor };
}
