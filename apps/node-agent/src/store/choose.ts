/** The storage of snapshots, as the configuration names it. */
import { ConfigurationError, messageOf, readSecret } from "@torpor/service";
import { mkdtemp, rmdir } from "node:fs/promises";
import { join } from "node:path";
import type { NodeAgentConfig } from "../config.ts";
import type { Blobs } from "./blobs.ts";
import { FileBlobs } from "./file-blobs.ts";
import type { S3Options } from "./s3-blobs.ts";

export type StoreSettings =
  | { kind: "none" }
  | { kind: "file"; dir: string }
  | ({ kind: "s3" } & S3Options);

export interface OpenedBlobs {
  /** Undefined: this host has no store. */
  blobs: Blobs | undefined;
  /** The reason why the store cannot be used now, and what to do; undefined if it can. */
  problem(): Promise<string | undefined>;
}

type StoreConfig = Pick<
  NodeAgentConfig,
  | "SNAPSHOT_STORE"
  | "SNAPSHOT_STORE_DIR"
  | "S3_ENDPOINT"
  | "S3_REGION"
  | "S3_BUCKET"
  | "S3_PREFIX"
  | "S3_CREDENTIALS_FILE"
>;

/** Throws ConfigurationError if a required setting is missing. */
export function storeSettings(config: StoreConfig): StoreSettings {
  if (config.SNAPSHOT_STORE === "none") return { kind: "none" };
  if (config.SNAPSHOT_STORE === "file") {
    if (config.SNAPSHOT_STORE_DIR !== undefined)
      return { kind: "file", dir: config.SNAPSHOT_STORE_DIR };
    throw new ConfigurationError(
      "SNAPSHOT_STORE_DIR is not set: SNAPSHOT_STORE=file needs a directory that all hosts share",
    );
  }
  if (config.S3_BUCKET === undefined)
    throw new ConfigurationError(
      "S3_BUCKET is not set: SNAPSHOT_STORE=s3 needs the name of a bucket",
    );
  return {
    kind: "s3",
    endpoint: config.S3_ENDPOINT,
    region: config.S3_REGION,
    bucket: config.S3_BUCKET,
    prefix: config.S3_PREFIX,
    credentials:
      config.S3_CREDENTIALS_FILE === undefined
        ? undefined
        : credentialsIn(config.S3_CREDENTIALS_FILE),
  };
}

/** The S3 client is large, so it is loaded only if it is used. */
export async function openBlobs(settings: StoreSettings): Promise<OpenedBlobs> {
  if (settings.kind === "none") return { blobs: undefined, problem: async () => undefined };
  if (settings.kind === "file")
    return { blobs: new FileBlobs(settings.dir), problem: () => problemOfDirectory(settings.dir) };
  const { S3Blobs } = await import("./s3-blobs.ts");
  const blobs = new S3Blobs(settings);
  return { blobs, problem: () => blobs.problem() };
}

function credentialsIn(path: string): NonNullable<S3Options["credentials"]> {
  const wrong = new ConfigurationError(
    `${path} is not of the form {"accessKeyId": "…", "secretAccessKey": "…"}`,
  );
  let given: unknown;
  try {
    given = JSON.parse(readSecret(path));
  } catch (error) {
    throw error instanceof ConfigurationError ? error : wrong;
  }
  const { accessKeyId, secretAccessKey } = (given ?? {}) as Record<string, unknown>;
  if (typeof accessKeyId !== "string" || typeof secretAccessKey !== "string") throw wrong;
  return { accessKeyId, secretAccessKey };
}

async function problemOfDirectory(dir: string): Promise<string | undefined> {
  try {
    await rmdir(await mkdtemp(join(dir, ".probe-")));
    return undefined;
  } catch (error) {
    return `SNAPSHOT_STORE_DIR ${dir} cannot be written to (${messageOf(error)}): make it and mount it, or correct the variable`;
  }
}
