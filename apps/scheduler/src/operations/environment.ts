/**
 * Environment variables on their way to a host. Only a create's command carries them: the guest
 * keeps them on its disk from then on.
 *
 * EN1  In the outbox, variables are encrypted as in the sandbox's row, if there is a key.
 * EN2  In the command, variables are sealed for the host, with the key that the host has
 *      registered. A host of 0.1.0 has none, and gets the variables as plain text.
 */
import { type SealedValue, variablesContext, type VmCommand } from "@torpor/contracts";
import { type EnvVars, openEnvVars, type SandboxRow } from "@torpor/db";
import { sealFor } from "@torpor/service";
import type { Deps } from "../deps.ts";

/** Fields of a stored command that the host does not get. */
interface ForPublishing {
  /** Variables, encrypted as in the sandbox's row. */
  sealedEnvVars?: SealedValue;
  /** Key of the host. */
  recipientKey?: string;
}

interface Environment extends ForPublishing {
  envVars: EnvVars;
}

/**
 * `commandKey`: key of the host; null: it has none. Undefined: the variables cannot be decrypted
 * here, but another scheduler may have the key.
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
    // Encrypted as in the row: once gateways have the key, every scheduler has it, and any may
    // publish the command.
    return envVarsSealed === null
      ? { envVars, ...recipient }
      : { envVars: {}, sealedEnvVars: envVarsSealed, ...recipient };
  } catch (err) {
    log.error(
      { err, sandboxId: sandbox.id },
      "environment variables could not be decrypted; the create was left waiting",
    );
    return undefined;
  }
}

/** The message to publish. Rejects when the command's variables cannot be decrypted. */
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
