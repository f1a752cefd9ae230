/**
 * Environment variables of sandboxes, encrypted if a key was set, otherwise in plain text. Only a
 * create needs the variables (apps/scheduler/src/operations/environment.ts), and a deleted sandbox
 * has none.
 */
import type { SandboxId, SealedValue } from "@torpor/contracts";
import { and, asc, eq, gt, isNotNull, ne, or, sql } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { sandboxes } from "../../schema.ts";
import type { SandboxRow } from "./sandbox-row.ts";

export type EnvVars = Record<string, string>;

/** Encrypts and decrypts for one sandbox, by its id; @torpor/service has an implementation. */
export interface Sealer {
  /** Undefined: there is no key. */
  readonly keyId: string | undefined;
  seal(context: string, text: string): Promise<SealedValue | undefined>;
  open(context: string, sealed: SealedValue): Promise<string>;
}

type Stored = Pick<SandboxRow, "envVars" | "envVarsSealed">;

/** Variables as they are stored: readable only for the sandbox with that id. */
export async function sealEnvVars(
  sealer: Sealer,
  id: SandboxId,
  envVars: EnvVars,
): Promise<Stored> {
  if (Object.keys(envVars).length === 0) return { envVars, envVarsSealed: null };
  const sealed = await sealer.seal(id, JSON.stringify(envVars));
  return sealed === undefined
    ? { envVars, envVarsSealed: null }
    : { envVars: {}, envVarsSealed: sealed };
}

/** Decrypts stored variables. Throws when the key that encrypted them is missing. */
export async function openEnvVars(sealer: Sealer, id: SandboxId, stored: Stored): Promise<EnvVars> {
  const { envVars, envVarsSealed } = stored;
  if (envVarsSealed === null) return envVars;
  return JSON.parse(await sealer.open(id, envVarsSealed)) as EnvVars;
}

const BATCH = 200;

/**
 * Encrypts, with the sealer's key, what is stored in plain text or with another key. Returns the
 * number of changed sandboxes. Safe at any time, because a sandbox's variables never change.
 */
export async function sealStoredEnvVars(db: Tx, sealer: Sealer): Promise<number> {
  const { keyId } = sealer;
  if (keyId === undefined) throw new Error("there is no key to encrypt with");
  const isPlain = ne(sandboxes.envVars, sql`'{}'::jsonb`);
  const sealedBy = sql`${sandboxes.envVarsSealed} ->> 'keyId'`;
  const isOfAnother = and(isNotNull(sandboxes.envVarsSealed), ne(sealedBy, keyId));
  let count = 0;
  for (let afterId: SandboxId | undefined; ;) {
    const rows = await db
      .select({
        id: sandboxes.id,
        envVars: sandboxes.envVars,
        envVarsSealed: sandboxes.envVarsSealed,
      })
      .from(sandboxes)
      .where(and(gt(sandboxes.id, sql`${afterId ?? ""}`), or(isPlain, isOfAnother)))
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
