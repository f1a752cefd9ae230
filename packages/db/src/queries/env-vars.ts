/**
 * Environment variables of sandboxes: encrypted where there is a key, and in plain text where there
 * was none. Only a create needs them (apps/scheduler/src/environment.ts), and a deleted sandbox has
 * none any more.
 */
import type { SealedValue } from "@torpor/contracts";
import { and, asc, eq, gt, isNotNull, ne, or, sql } from "drizzle-orm";
import type { Tx } from "../database.ts";
import { sandboxes } from "../schema.ts";
import type { SandboxRow } from "./move-sandbox.ts";

export type EnvVars = Record<string, string>;

/** What encrypts and decrypts, for one sandbox by its id: @torpor/service has one. */
export interface Sealer {
  /** Undefined: there is no key. */
  readonly keyId: string | undefined;
  seal(context: string, text: string): Promise<SealedValue | undefined>;
  open(context: string, sealed: SealedValue): Promise<string>;
}

type Stored = Pick<SandboxRow, "envVars" | "envVarsSealed">;

/** As they are stored for the sandbox of that id, and read by it alone. */
export async function sealEnvVars(sealer: Sealer, id: string, envVars: EnvVars): Promise<Stored> {
  if (Object.keys(envVars).length === 0) return { envVars, envVarsSealed: null };
  const sealed = await sealer.seal(id, JSON.stringify(envVars));
  return sealed === undefined
    ? { envVars, envVarsSealed: null }
    : { envVars: {}, envVarsSealed: sealed };
}

/** Throws when the key that they were encrypted with is not here. */
export async function openEnvVars(sealer: Sealer, id: string, stored: Stored): Promise<EnvVars> {
  const { envVars, envVarsSealed } = stored;
  if (envVarsSealed === null) return envVars;
  return JSON.parse(await sealer.open(id, envVarsSealed)) as EnvVars;
}

const BATCH = 200;

/**
 * Encrypts with the sealer's key what is stored in plain text, or with another key. Returns how
 * many sandboxes that were. Safe beside everything else: what a sandbox was made with never
 * changes.
 */
export async function sealStoredEnvVars(db: Tx, sealer: Sealer): Promise<number> {
  const { keyId } = sealer;
  if (keyId === undefined) throw new Error("there is no key to encrypt with");
  const isPlain = ne(sandboxes.envVars, sql`'{}'::jsonb`);
  const sealedBy = sql`${sandboxes.envVarsSealed} ->> 'keyId'`;
  const isOfAnother = and(isNotNull(sandboxes.envVarsSealed), ne(sealedBy, keyId));
  let count = 0;
  for (let afterId = ""; ;) {
    const rows = await db
      .select({
        id: sandboxes.id,
        envVars: sandboxes.envVars,
        envVarsSealed: sandboxes.envVarsSealed,
      })
      .from(sandboxes)
      .where(and(gt(sandboxes.id, afterId), or(isPlain, isOfAnother)))
      .orderBy(asc(sandboxes.id))
      .limit(BATCH);
    for (const { id, ...stored } of rows) {
      const sealed = await sealEnvVars(sealer, id, await openEnvVars(sealer, id, stored));
      const isThere = and(eq(sandboxes.id, id), or(isPlain, isOfAnother));
      const changed = await db
        .update(sandboxes)
        .set(sealed)
        .where(isThere)
        .returning({ id: sandboxes.id });
      count += changed.length;
    }
    const last = rows.at(-1);
    if (last === undefined) return count;
    afterId = last.id;
  }
}
