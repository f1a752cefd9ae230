/** DELETE /files/remove: a file, a link, or a directory with everything below it. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { lstat, unlink } from "node:fs/promises";
import type { Readable } from "node:stream";
import type { GuestAgentConfig } from "../config.ts";
import { AgentError } from "../errors.ts";
import { sync } from "./durable.ts";
import { withFileErrors } from "./file-errors.ts";
import { parentOf, type NamedPlace } from "./names.ts";
import { isRoot } from "./paths.ts";

const MAX_SAID = 4_096;

export async function remove(config: GuestAgentConfig, place: NamedPlace) {
  const path = place.shown;
  if (await isRoot(config, place))
    throw new AgentError(400, "INVALID_PATH", `${path} itself cannot be removed`, { path });
  await withFileErrors(path, async () => {
    const facts = await lstat(place.bytes);
    if (facts.isDirectory()) await removeTree(place);
    else await unlink(place.bytes);
    await sync(parentOf(place).bytes);
  });
  return { success: true, path, message: "Removed" };
}

/**
 * Uses `rm`, which walks from directory to directory: Node takes only paths from the root, of at
 * most 4095 bytes. `xargs` passes a name that is not UTF-8, which Node cannot.
 */
async function removeTree({ bytes, shown }: NamedPlace): Promise<void> {
  const child = spawn("xargs", ["-0", "rm", "-rf", "--"], {
    stdio: ["pipe", "ignore", "pipe"],
    env: { ...process.env, LC_ALL: "C.UTF-8" },
  });
  // When too many files are open, the child has no pipes.
  child.stdin?.on("error", () => {});
  child.stdin?.end(Buffer.concat([bytes, Buffer.of(0)]));
  const said = child.stderr === null ? "" : firstLine(child.stderr);
  const [code] = (await once(child, "close").catch((cause: NodeJS.ErrnoException) => {
    // ENOENT is about the program, not about the path to remove.
    throw cause.code === "ENOENT" ? failure(shown, "there is no xargs to run") : cause;
  })) as [number | null];
  if (code !== 0) throw failure(shown, await said);
}

/** Reads to the end, so that `rm` never blocks. */
async function firstLine(stream: Readable): Promise<string> {
  let text = "";
  for await (const chunk of stream.setEncoding("utf8"))
    if (text.length < MAX_SAID) text += String(chunk);
  return text.split("\n")[0]?.replace(/^(xargs|rm): /, "") ?? "";
}

function failure(path: string, said: string): AgentError {
  const message = `${path} could not be removed, or not all of it: ${said}`;
  return /(not permitted|denied|read-only file system)$/i.test(said)
    ? new AgentError(403, "PERMISSION_DENIED", message, { path })
    : new AgentError(400, "FILE_OPERATION_FAILED", message, { path });
}
