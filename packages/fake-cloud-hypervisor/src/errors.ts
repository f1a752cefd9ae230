/**
 * Errors as the API shows them: a status and the chain of messages, outermost first. The messages
 * are Cloud Hypervisor's.
 */

export class FakeApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;
  readonly chain: string[];

  constructor(status: number, chain: string[]) {
    super(chain.join(": "));
    this.status = status;
    this.chain = chain;
  }
}

/** A failure inside a call; the call adds its own name in front. */
export class VmError extends Error {
  override readonly name = "VmError";
  readonly chain: string[];
  readonly status: number;

  constructor(chain: string[], status = 500) {
    super(chain.join(": "));
    this.chain = chain;
    this.status = status;
  }
}

export const notRunning = () => new VmError(["VM is not running"]);
export const notCreated = () => new VmError(["VM is not created"], 404);
export const alreadyCreated = () => new VmError(["VM is already created"]);
export const configMissing = () => new VmError(["VM config is missing"], 404);

const OS_ERRORS: Record<string, string> = {
  ENOENT: "No such file or directory (os error 2)",
  EACCES: "Permission denied (os error 13)",
  EEXIST: "File exists (os error 17)",
  ENOSPC: "No space left on device (os error 28)",
  EROFS: "Read-only file system (os error 30)",
  EADDRINUSE: "Address already in use (os error 98)",
};

/** The text that Rust gives to an error of the operating system. */
export function osError(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return OS_ERRORS[code ?? ""] ?? message;
}

/** Runs `body`; an error of the operating system becomes the end of `chain`. */
export function withContext<T>(chain: string[], body: () => T): T {
  try {
    return body();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === undefined) throw error;
    throw new VmError([...chain, osError(error)]);
  }
}
