import { AgentError } from "../errors.ts";

type Meaning = [status: number, code: string, text: string];

const FULL: Meaning = [400, "FILE_OPERATION_FAILED", "the disk is full; remove something first"];
const TOO_MANY: Meaning = [429, "RESOURCE_LIMIT_ERROR", "too many files are open; try again"];
const NO_FILE: Meaning = [400, "INVALID_PATH", "no regular file"];

/** The meaning of a failed system call for the caller. */
const MEANINGS: Record<string, Meaning> = {
  ENOENT: [404, "FILE_NOT_FOUND", "not found"],
  EEXIST: [409, "FILE_ALREADY_EXISTS", "exists already"],
  ENOTDIR: [400, "INVALID_PATH", "it, or what should hold it, is no directory"],
  EISDIR: [400, "INVALID_PATH", "is a directory"],
  ENXIO: NO_FILE,
  ENODEV: NO_FILE,
  ENAMETOOLONG: [
    400,
    "INVALID_PATH",
    "a name is longer than 255 bytes, or the path longer than 4095",
  ],
  ELOOP: [400, "INVALID_PATH", "too many links, or links in a circle"],
  EACCES: [403, "PERMISSION_DENIED", "permission denied"],
  EPERM: [403, "PERMISSION_DENIED", "permission denied"],
  EROFS: [403, "PERMISSION_DENIED", "the file system is read-only"],
  ENOSPC: FULL,
  EDQUOT: FULL,
  EFBIG: [400, "FILE_OPERATION_FAILED", "larger than this file system takes"],
  EMLINK: [400, "FILE_OPERATION_FAILED", "this file system takes no more links or directories"],
  EBUSY: [400, "FILE_OPERATION_FAILED", "in use by the system, as a mount point is"],
  EMFILE: TOO_MANY,
  ENFILE: TOO_MANY,
};

function fileError(error: unknown, path: string): AgentError {
  if (error instanceof AgentError) return error;
  const { code, message } = error as NodeJS.ErrnoException;
  const meaning: Meaning = MEANINGS[code ?? ""] ?? [400, "FILE_OPERATION_FAILED", message];
  const [status, name, text] = meaning;
  const isOfPath = meaning !== FULL && meaning !== TOO_MANY;
  return new AgentError(status, name, isOfPath ? `${path}: ${text}` : text, { path, cause: error });
}

/** Runs file calls and turns their failures into errors for the caller. */
export async function withFileErrors<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw fileError(error, path);
  }
}
