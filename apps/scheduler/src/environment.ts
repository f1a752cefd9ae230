/**
 * Environment variables on their way to a host. A create's command alone carries them: the guest
 * keeps them on its disk from then on. In the outbox they are encrypted, where there is a key, and
 * put into the command when it is published, in the form that all hosts understand.
 */
import type { SealedValue, VmCommand } from "@torpor/contracts";
import { type EnvVars, openEnvVars, type SandboxRow } from "@torpor/db";
import type { Deps } from "./deps.ts";

/** For the command and its message in the outbox. */
interface Environment {
  envVars: EnvVars;
  sealedEnvVars?: SealedValue;
}

/** A command as it is stored in the outbox. */
type StoredCommand = VmCommand & { sealedEnvVars?: SealedValue };

/** Undefined: they cannot be decrypted here. Another scheduler may have the key. */
export async function environmentOf(
  { envelope, log }: Pick<Deps, "envelope" | "log">,
  sandbox: Pick<SandboxRow, "id"> & Partial<Pick<SandboxRow, "envVars" | "envVarsSealed">>,
): Promise<Environment | undefined> {
  try {
    const { envVars: plain = {}, envVarsSealed = null } = sandbox;
    const envVars = await openEnvVars(envelope, sandbox.id, { envVars: plain, envVarsSealed });
    // As in the row: once gateways have the key, every scheduler has it, and may publish the command.
    return envVarsSealed === null ? { envVars } : { envVars: {}, sealedEnvVars: envVarsSealed };
  } catch (err) {
    log.error(
      { err, sandboxId: sandbox.id },
      "environment variables could not be decrypted; the create waits",
    );
    return undefined;
  }
}

/** The message of a stored one. Rejects when the command's variables cannot be decrypted. */
export async function messageOf(envelope: Deps["envelope"], stored: unknown): Promise<unknown> {
  if (!isSealed(stored)) return stored;
  const { sealedEnvVars: envVarsSealed, ...command } = stored;
  const { spec } = command;
  const envVars = await openEnvVars(envelope, spec.sandboxId, { envVars: {}, envVarsSealed });
  return { ...command, spec: { ...spec, envVars } };
}

const isSealed = (stored: unknown): stored is StoredCommand & { sealedEnvVars: SealedValue } =>
  typeof stored === "object" && stored !== null && "sealedEnvVars" in stored;
