/** Settings with which a program authenticates to the NATS servers, the same in all programs. */
import { TLS_SETTINGS, tlsFilesIn } from "@torpor/identity";
import { ConfigurationError, readSecret } from "@torpor/service";
import { type Static, Type } from "typebox";
import type { BusOptions } from "./connect.ts";
import { publicKeyOf } from "./nats-key.ts";

export const NATS_CREDENTIALS = {
  /** Seed of an NKey, whose public half the servers know. */
  NATS_SEED_FILE: Type.Optional(Type.String()),
  /** Alternatively, a name and a password that the servers know. */
  NATS_USER: Type.Optional(Type.String()),
  NATS_PASSWORD_FILE: Type.Optional(Type.String()),
};

const Settings = Type.Object({ NATS_URL: Type.String(), ...NATS_CREDENTIALS, ...TLS_SETTINGS });

/** Options of a connection. Throws ConfigurationError when a file is missing or holds no seed. */
export function busAccess(settings: Static<typeof Settings>): Omit<BusOptions, "name"> {
  const {
    NATS_URL: url,
    NATS_SEED_FILE: seedFile,
    NATS_USER: user,
    NATS_PASSWORD_FILE: passwordFile,
  } = settings;
  const reached = { url, tlsFiles: tlsFilesIn(settings) };
  if (seedFile !== undefined) return { ...reached, seed: seedIn(seedFile) };
  return {
    ...reached,
    user,
    password: passwordFile === undefined ? undefined : readSecret(passwordFile),
  };
}

function seedIn(file: string): string {
  const seed = readSecret(file);
  try {
    publicKeyOf(seed);
  } catch (cause) {
    throw new ConfigurationError(`${file} holds no seed of a NATS user (it begins with SU)`, {
      cause,
    });
  }
  return seed;
}
