/** Environment variables in the command of a create: sealed for this host, or in plain text. */
import { decoder, variablesContext, type VmCommand } from "@torpor/contracts";
import { openBox } from "@torpor/service";
import { Type } from "typebox";

const decodeVariables = decoder(Type.Record(Type.String(), Type.String()));

/**
 * Throws if the variables were sealed for another host, key, sandbox or run, or are damaged: a
 * retry cannot help.
 */
export function variablesOf(command: VmCommand, commandKey: string): Record<string, string> {
  const { sealedVariables, spec } = command;
  if (sealedVariables === undefined) return spec.envVars;
  let text: string;
  try {
    text = openBox(commandKey, variablesContext(command), sealedVariables);
  } catch (cause) {
    throw new Error(
      "its environment variables cannot be decrypted, as they were sealed for another key, host or run, or were damaged on the way; create it again",
      { cause },
    );
  }
  return decodeVariables("sealed environment variables", Buffer.from(text));
}
