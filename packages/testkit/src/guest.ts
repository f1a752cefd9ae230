/** Calls of the agent in a sandbox, through the edge. */
import { ApiRefusal } from "@torpor/client";
import type { SandboxResource } from "@torpor/contracts";
import { type ApiAnswer, answerOf } from "./api-answer.ts";

const CALL_LIMIT_MS = 60_000;

/** Address and token of a sandbox, as a create returns them. */
export type GuestAccess = Pick<SandboxResource, "public_host" | "auth_token">;

/** Result of code or of a command that has ended. */
export interface Ran {
  success: boolean;
  stdout: string;
  stderr: string;
  exit_code: number;
}

/** One call of the agent, for tests of its statuses; parses the body for any status. */
export async function callGuest(
  sandbox: GuestAccess,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<ApiAnswer> {
  const response = await fetch(new URL(path, sandbox.public_host), {
    method: body === undefined ? "GET" : "POST",
    headers: {
      authorization: `Bearer ${String(sandbox.auth_token)}`,
      "content-type": "application/json",
      ...headers,
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(CALL_LIMIT_MS),
  });
  return await answerOf(response);
}

/** Rejects with `ApiRefusal` for any status but 200, as the client does. */
async function ask<T>(sandbox: GuestAccess, path: string, body?: unknown): Promise<T> {
  const answer = await callGuest(sandbox, path, body);
  if (answer.status !== 200) throw new ApiRefusal(answer.status, answer.body, answer.headers);
  return answer.body as T;
}

/** Runs a cell of Python. The cell may fail: see `success` and `stderr`. */
export const runCode = async (sandbox: GuestAccess, code: string) =>
  await ask<Ran>(sandbox, "/execute", { language: "python", code });

/** Runs a cell of Python that must not fail. Returns what the cell printed, trimmed. */
export async function python(sandbox: GuestAccess, code: string): Promise<string> {
  const ran = await runCode(sandbox, code);
  if (!ran.success) throw new Error(`the cell failed: ${JSON.stringify(ran)}`);
  return ran.stdout.trim();
}

/** Runs a command, whatever its exit code is. Returns what the command printed, trimmed. */
export async function shell(
  sandbox: GuestAccess,
  command: string,
  timeoutSeconds?: number,
): Promise<string> {
  const timeout = timeoutSeconds === undefined ? {} : { timeout: timeoutSeconds };
  return (await ask<Ran>(sandbox, "/commands/run", { command, ...timeout })).stdout.trim();
}

export const writeGuestFile = async (sandbox: GuestAccess, path: string, content: string) =>
  await ask<object>(sandbox, "/files/write", { path, content });

/** Returns the file's content; a simulated guest returns null for a file that does not exist. */
export async function readGuestFile(sandbox: GuestAccess, path: string): Promise<string | null> {
  const query = `path=${encodeURIComponent(path)}`;
  return (await ask<{ content: string | null }>(sandbox, `/files/read?${query}`)).content;
}
