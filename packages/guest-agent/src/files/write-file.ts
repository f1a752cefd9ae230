/** Puts a whole file in its place: readers see the old content or the new, never half of it. */
import { randomBytes } from "node:crypto";
import { chmod, copyFile, link, mkdir, rename, rm, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { AgentError, invalidRequest } from "../errors.ts";

export interface Placement {
  mode: number;
  overwrite: boolean;
}

/** Moves `temporary` to `path`; makes the directories above it. Throws 400 when `path` is a directory, 409 when it is there and must not be. */
export async function putInPlace(temporary: string, path: string, { mode, overwrite }: Placement): Promise<void> {
  const existing = await stat(path).catch(() => undefined);
  if (existing?.isDirectory() === true) throw new AgentError(400, "INVALID_PATH", `${path} is a directory`, { path });
  await mkdir(dirname(path), { recursive: true });
  await chmod(temporary, mode);
  // A link fails when the name is taken, a rename replaces it.
  if (overwrite) await moveOver(temporary, path);
  else await link(temporary, path);
}

async function moveOver(temporary: string, path: string): Promise<void> {
  try {
    await rename(temporary, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EXDEV") throw error;
    const beside = temporaryBeside(path);
    await copyFile(temporary, beside).then(
      () => rename(beside, path),
      async (cause: unknown) => {
        await rm(beside, { force: true });
        throw cause;
      },
    );
  }
}

export const temporaryBeside = (path: string) => `${path}.${randomBytes(6).toString("hex")}.tmp`;

/** Permission bits, as the SDKs send them: "0644". Throws 400. */
export function modeOf(value: unknown): number {
  if (value === undefined || value === null) return 0o644;
  const mode = typeof value === "string" && /^0?[0-7]{3,4}$/.test(value) ? Number.parseInt(value, 8) : value;
  if (typeof mode !== "number" || !Number.isInteger(mode) || mode < 0 || mode > 0o7777)
    throw invalidRequest('"mode" must be an octal string such as "0644"');
  return mode;
}
