import type { SandboxId } from "@torpor/contracts";
import { and, eq } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { incarnations } from "../../schema.ts";

export type IncarnationRow = typeof incarnations.$inferSelect;

export async function findIncarnation(
  db: Tx,
  sandboxId: SandboxId,
  epoch: number,
): Promise<IncarnationRow | undefined> {
  const [row] = await db
    .select()
    .from(incarnations)
    .where(and(eq(incarnations.sandboxId, sandboxId), eq(incarnations.epoch, epoch)));
  return row;
}
