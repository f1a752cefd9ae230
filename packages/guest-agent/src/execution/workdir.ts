/**
 * Where a program runs: in the directory that is asked for, which must be one; without a wish, in
 * the default one if it is there.
 */
import { statSync } from "node:fs";
import { isAbsolute, resolve } from "node:path";
import type { GuestAgentConfig } from "../config.ts";
import { AgentError } from "../errors.ts";
import { type Body, optionalString, systemText } from "../fields.ts";

/**
 * Relative to the default one, which the SDKs name with every call: that says nothing. Throws 400,
 * naming the field, when it is no directory.
 */
export function workdirField(config: GuestAgentConfig, body: Body): string {
  const name =
    body["workdir"] === undefined || body["workdir"] === null ? "working_dir" : "workdir";
  const asked = optionalString(body, name);
  const text = systemText(asked ?? "", name);
  // Not made shorter: above a link is where the link leads.
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

/** Users may remove the default one, or put something else in its place: then the root. */
export const defaultWorkdir = ({ workdir }: GuestAgentConfig): string =>
  isDirectory(workdir) ? workdir : "/";

/** A link to one is one. */
function isDirectory(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}
