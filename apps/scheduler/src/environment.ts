/**
 * Environment variables on their way to a host. A create's command alone carries them: the guest
 * keeps them on its disk from then on.
 *
 * EN1  In the outbox they are encrypted as in the sandbox's row, where there is a key.
 * EN2  In the command they are sealed for its host, which has told its key when it registered. One
 *      of 0.1.0 has none, and gets them as they are.
 */
import { type SealedValue, variablesContext, type VmCommand } from "@torpor/contracts";
import { type EnvVars, openEnvVars, type SandboxRow } from "@torpor/db";
import { sealFor } from "@torpor/service";
import type { Deps } from "./deps.ts";

/** What a command is stored with in the outbox, beside what its host is told. */
interface ForPublishing {
  /** As in the sandbox's row. */
  sealedEnvVars?: SealedValue;
  /** Of the host. */
  recipientKey?: string;
}

interface Environment extends ForPublishing {
  envVars: EnvVars;
}

/**
 * `commandKey`: of the host; null: it has none. Undefined: they cannot be decrypted here. Another
 * scheduler may have the key.
 */
export async function environmentOf(
  { envelope, log }: Pick<Deps, "envelope" | "log">,
  sandbox: Pick<SandboxRow, "id"> & Partial<Pick<SandboxRow, "envVars" | "envVarsSealed">>,
  commandKey: string | null,
): Promise<Environment | undefined> {
  try {
    const { envVars: plain = {}, envVarsSealed = null } = sandbox;
    const envVars = await openEnvVars(envelope, sandbox.id, { envVars: plain, envVarsSealed });
    if (Object.keys(envVars).length === 0) return { envVars };
    const recipient = commandKey === null ? {} : { recipientKey: commandKey };
    // As in the row: once gateways have the key, every scheduler has it, and may publish the
    // command.
    return envVarsSealed === null
      ? { envVars, ...recipient }
      : { envVars: {}, sealedEnvVars: envVarsSealed, ...recipient };
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
  if (!isForPublishing(stored)) return stored;
  const { sealedEnvVars = null, recipientKey, ...command } = stored;
  const { sandboxId, envVars: plain } = command.spec;
  const kept = { envVars: plain, envVarsSealed: sealedEnvVars };
  const envVars = await openEnvVars(envelope, sandboxId, kept);
  if (recipientKey === undefined) return withVariables(command, envVars);
  const context = variablesContext(command);
  const sealedVariables = sealFor(recipientKey, context, JSON.stringify(envVars));
  return { ...withVariables(command, {}), sealedVariables };
}

const withVariables = (command: VmCommand, envVars: EnvVars): VmCommand => ({
  ...command,
  spec: { ...command.spec, envVars },
});

const isForPublishing = (stored: unknown): stored is VmCommand & ForPublishing =>
  typeof stored === "object" &&
  stored !== null &&
  ("sealedEnvVars" in stored || "recipientKey" in stored);
