/**
 * Environment variables in a command, sealed for the one host that is to read them, so that whoever
 * reads the stream of commands, or the disk under it, has nothing of them (sealed-box.ts in
 * service).
 */
import { Type } from "typebox";

/** X25519, 32 bytes, base64url. */
export const CommandKey = Type.String({ pattern: "^[A-Za-z0-9_-]{43}$" });

export const SealedVariables = Type.Object({
  ephemeralKey: CommandKey,
  /** Base64, of a JSON object. */
  ciphertext: Type.String(),
});

/** The parts of a command that its variables are bound to. */
interface Sealed {
  hostId: string;
  epoch: number;
  opSeq: number;
  operationId: string;
  spec: { sandboxId: string };
}

/**
 * What they are sealed for: one operation of one run on one host. In another command they do not
 * open.
 */
export function variablesContext({ hostId, epoch, opSeq, operationId, spec }: Sealed): string {
  return ["torpor variables 1", hostId, spec.sandboxId, epoch, opSeq, operationId].join("/");
}
