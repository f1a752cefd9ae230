import { AgentError } from "../errors.ts";

/** What a failed system call means to the caller. */
function fileError(error: unknown, path: string): AgentError {
  if (error instanceof AgentError) return error;
  const { code, message } = error as NodeJS.ErrnoException;
  const options = { path, cause: error };
  switch (code) {
    case "ENOENT":
      return new AgentError(404, "FILE_NOT_FOUND", `${path} not found`, options);
    case "EEXIST":
      return new AgentError(409, "FILE_ALREADY_EXISTS", `${path} exists already`, options);
    case "ENOTDIR":
    case "EISDIR":
    case "ENAMETOOLONG":
    case "ELOOP":
      return new AgentError(400, "INVALID_PATH", message, options);
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return new AgentError(403, "PERMISSION_DENIED", `${path}: permission denied`, options);
    case "ENOSPC":
    case "EDQUOT":
      return new AgentError(400, "FILE_OPERATION_FAILED", "the disk is full; remove something first", options);
    default:
      return new AgentError(400, "FILE_OPERATION_FAILED", `${path}: ${message}`, options);
  }
}

/** Runs file calls, whose failures are the caller's to know. */
export async function withFileErrors<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw fileError(error, path);
  }
}
