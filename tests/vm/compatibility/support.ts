/**
 * Source of the rows of docs/compatibility.md: tests named by a method of a client, with a note
 * where one is needed.
 */
import type { TestContext } from "vitest";

declare module "vitest" {
  interface TaskMeta {
    /** Third column of the table. */
    note?: string;
    /** The method is refused, clearly and at once, because Torpor has nothing behind it. */
    isRefused?: boolean;
  }
}

export function note({ task }: TestContext, text: string): void {
  task.meta.note = text;
}

export function refused(context: TestContext, text: string): void {
  note(context, text);
  context.task.meta.isRefused = true;
}

/** The error that `call` rejects with. */
export async function errorOf(
  call: () => Promise<unknown>,
): Promise<Error & { code?: string; statusCode?: number }> {
  try {
    await call();
  } catch (error) {
    if (error instanceof Error) return error;
  }
  throw new Error("it did not fail");
}
