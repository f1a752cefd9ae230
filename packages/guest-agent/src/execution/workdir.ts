/**
 * The directory in which a program runs: the requested one, which must exist, or else the default
 * one if it exists.
 */
import { statSync } from "node:fs";
import { isAbsolute, resolve } from "node:path";
import type { GuestAgentConfig } from "../config.ts";
import { AgentError } from "../errors.ts";
import { type Body, optionalString, systemText } from "../fields.ts";

/**
 * A relative directory is relative to the default one. The SDKs name the default with every call,
 * so the default counts as not requested. Throws 400, naming the field, when the path is no
 * directory.
 */
export function workdirField(config: GuestAgentConfig, body: Body): string {
  const name =
    body["workdir"] === undefined || body["workdir"] === null ? "working_dir" : "workdir";
  const asked = optionalString(body, name);
  const text = systemText(asked ?? "", name);
  // Not normalized: `..` after a link leads to the parent of the link's target.
  const workdir = isAbsolute(text) ? text : `${config.workdir}/${text}`;
  if (resolve(workdir) === config.workdir && !text.includes("..")) return defaultWorkdir(config);
  if (!isDirectory(workdir))
    throw new AgentError(
      400,
      "DIRECTORY_NOT_FOUND",
      `"${name}": there is no directory ${workdir}`,
      { path: workdir },
    );
  return workdir;
}

/** Users may remove the default directory, or replace it with a file: then the root. */
export const defaultWorkdir = ({ workdir }: GuestAgentConfig): string =>
  isDirectory(workdir) ? workdir : "/";

/** A link to a directory counts as one. */
function isDirectory(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}
