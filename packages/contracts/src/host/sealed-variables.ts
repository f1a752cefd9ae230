/**
 * Environment variables in a command, sealed for the one host that needs them. A reader of the
 * command stream, or of the disk under it, cannot open them (sealed-box.ts in service).
 */
import { Type } from "typebox";
import type { HostId, OperationId, SandboxId } from "../ids.ts";

/** X25519, 32 bytes, base64url. */
export const CommandKey = Type.String({ pattern: "^[A-Za-z0-9_-]{43}$" });

export const SealedVariables = Type.Object({
  ephemeralKey: CommandKey,
  /** Base64, of a JSON object. */
  ciphertext: Type.String(),
});

/** The parts of a command that its variables are bound to. */
interface Sealed {
  hostId: HostId;
  epoch: number;
  opSeq: number;
  operationId: OperationId;
  spec: { sandboxId: SandboxId };
}

/**
 * Context of the sealing: one operation of one run on one host. The variables do not open in
 * another command.
 */
export function variablesContext({ hostId, epoch, opSeq, operationId, spec }: Sealed): string {
  return ["torpor variables 1", hostId, spec.sandboxId, epoch, opSeq, operationId].join("/");
}
