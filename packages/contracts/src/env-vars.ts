/**
 * Rules for the environment variables of a program in a sandbox. The gateway applies them before
 * anything is written, and so does the guest agent. The guest agent's bundle contains this file, so
 * this file imports nothing.
 */
export const ENV_NAME_PATTERN = "^[A-Za-z_][A-Za-z0-9_]{0,255}$";
/** Limit for all variables as JSON text. Linux allows 2 MiB for them and the arguments together. */
export const MAX_ENV_BYTES = 256 * 1024;
/** Limit for one string of a program's environment or arguments, without the final zero byte. */
export const MAX_PROGRAM_STRING_BYTES = 128 * 1024 - 1;

/** The variable at fault, if it is a single one, and the rule that is broken. */
export interface EnvProblem {
  name: string | undefined;
  message: string;
}

const NAME = new RegExp(ENV_NAME_PATTERN);
const LONE_SURROGATE = /\p{Surrogate}/u;
/** An invalid name may be of any length. */
const SHOWN_LENGTH = 40;

const bytesOf = (text: string) => new TextEncoder().encode(text).length;

export function findEnvProblem(variables: Record<string, string>): EnvProblem | undefined {
  for (const [name, value] of Object.entries(variables)) {
    const message = problemOf(name, value);
    if (message !== undefined)
      return {
        name: name.length > SHOWN_LENGTH ? `${name.slice(0, SHOWN_LENGTH)}…` : name,
        message,
      };
  }
  const bytes = bytesOf(JSON.stringify(variables));
  if (bytes <= MAX_ENV_BYTES) return undefined;
  return {
    name: undefined,
    message: `must be at most ${MAX_ENV_BYTES} bytes as JSON text, and is ${bytes}`,
  };
}

function problemOf(name: string, value: string): string | undefined {
  if (!NAME.test(name))
    return "must have a name of 1 to 256 letters, digits and underscores that begins with no digit";
  if (value.includes("\0")) return "must not hold a NUL character";
  if (LONE_SURROGATE.test(value)) return "must not hold half a surrogate pair";
  const bytes = bytesOf(name) + 1 + bytesOf(value);
  if (bytes <= MAX_PROGRAM_STRING_BYTES) return undefined;
  return `must be at most ${MAX_PROGRAM_STRING_BYTES} bytes with its name, which is all that Linux gives a program, and is ${bytes}`;
}
