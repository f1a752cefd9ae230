/**
 * For vitest's `setupFiles`: keeps the evidence of each failed test while its servers and fleets
 * still exist.
 */
import { afterEach } from "vitest";
import { keepEvidence } from "./evidence.ts";

/** Maximum per file: later failures usually have the same reason. */
const MAX_KEPT = 5;
let kept = 0;

afterEach(async ({ task }) => {
  if (task.result?.state !== "fail" || kept >= MAX_KEPT) return;
  kept += 1;
  const errors = (task.result.errors ?? []).map(({ message, stack, diff }) =>
    [stack ?? message, diff].filter(Boolean).join("\n"),
  );
  await keepEvidence(
    task.file.name,
    task.fullTestName ?? task.name,
    [task.fullName, ...errors].join("\n\n"),
  );
});
