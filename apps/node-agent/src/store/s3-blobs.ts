/**
 * Blobs as objects of a bucket, on any server that speaks S3: AWS, Ceph, MinIO, R2. The server has
 * to be strongly consistent, as these are.
 */
import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadBucketCommand,
  ListObjectsV2Command,
  type ListObjectsV2CommandOutput,
  PutObjectCommand,
  S3Client,
} from "@aws-sdk/client-s3";
import type { Blob, Blobs } from "./blobs.ts";

export interface S3Options {
  /** Undefined: AWS itself. */
  endpoint: string | undefined;
  region: string;
  bucket: string;
  /** Prefix of every key; empty, or ends with a slash. */
  prefix: string;
  /** Undefined: the SDK's chain (environment, shared files, the machine's or the pod's role). */
  credentials: { accessKeyId: string; secretAccessKey: string } | undefined;
  /** Objects per page of a listing, at most; tests use smaller pages. */
  pageSize?: number;
}

const CONNECT_LIMIT_MS = 5_000;
/** Limit for one object, a chunk at most. */
const REQUEST_LIMIT_MS = 60_000;
/** The caller also retries, later. */
const ATTEMPTS = 3;
const CHECK_LIMIT_MS = 10_000;

export class S3Blobs implements Blobs {
  readonly name: string;
  private readonly client: S3Client;
  private readonly options: S3Options;

  constructor(options: S3Options) {
    this.options = options;
    this.name = `s3://${options.bucket}/${options.prefix}`;
    const { endpoint, region, credentials } = options;
    this.client = new S3Client({
      region,
      maxAttempts: ATTEMPTS,
      requestHandler: {
        connectionTimeout: CONNECT_LIMIT_MS,
        requestTimeout: REQUEST_LIMIT_MS,
        throwOnRequestTimeout: true,
      },
      // Stored content has its own hashes, and not every server knows these checksums.
      requestChecksumCalculation: "WHEN_REQUIRED",
      responseChecksumValidation: "WHEN_REQUIRED",
      ...(endpoint === undefined ? {} : { endpoint, forcePathStyle: true }),
      ...(credentials === undefined ? {} : { credentials }),
    });
  }

  async put(key: string, content: Uint8Array, signal: AbortSignal): Promise<void> {
    const request = new PutObjectCommand({
      ...this.at(key),
      Body: content,
      ContentLength: content.byteLength,
    });
    await this.client.send(request, { abortSignal: signal });
  }

  async get(key: string, signal: AbortSignal): Promise<Buffer | undefined> {
    try {
      const { Body } = await this.client.send(new GetObjectCommand(this.at(key)), {
        abortSignal: signal,
      });
      return Buffer.from((await Body?.transformToByteArray()) ?? []);
    } catch (error) {
      if ((error as Error).name === "NoSuchKey") return undefined;
      throw error;
    }
  }

  async *list(prefix: string, signal: AbortSignal): AsyncIterable<Blob> {
    for await (const { Contents = [] } of this.pages(prefix, undefined, signal)) {
      for (const { Key = "", Size = 0, LastModified } of Contents)
        yield {
          key: Key.slice(this.options.prefix.length),
          sizeBytes: Size,
          modifiedAtMs: LastModified?.getTime() ?? 0,
        };
    }
  }

  async *roots(signal: AbortSignal): AsyncIterable<string> {
    for await (const { CommonPrefixes = [] } of this.pages("", "/", signal))
      for (const { Prefix = "" } of CommonPrefixes)
        yield Prefix.slice(this.options.prefix.length, -1);
  }

  async remove(key: string, signal: AbortSignal): Promise<void> {
    await this.client.send(new DeleteObjectCommand(this.at(key)), { abortSignal: signal });
  }

  /** The reason why the bucket cannot be used, and what to do; undefined if it can. */
  async problem(): Promise<string | undefined> {
    try {
      await this.client.send(new HeadBucketCommand({ Bucket: this.options.bucket }), {
        abortSignal: AbortSignal.timeout(CHECK_LIMIT_MS),
      });
      return undefined;
    } catch (error) {
      return this.explain(error);
    }
  }

  private explain(error: unknown): string {
    const { name, message, $metadata } = error as Error & {
      $metadata?: { httpStatusCode?: number };
    };
    const where = this.options.endpoint ?? "AWS";
    switch ($metadata?.httpStatusCode) {
      case 404:
        return `${where} has no bucket "${this.options.bucket}": make it, or correct S3_BUCKET`;
      case 400:
      case 401:
      case 403:
        return `${where} refuses the credentials, or does not let them use bucket "${this.options.bucket}": correct S3_CREDENTIALS_FILE, or what they may do`;
      case 301:
        return `bucket "${this.options.bucket}" is in another region than ${this.options.region}: correct S3_REGION`;
      default:
        return `${where} cannot be reached: start it, or correct S3_ENDPOINT (${name}: ${message})`;
    }
  }

  private async *pages(
    prefix: string,
    delimiter: string | undefined,
    signal: AbortSignal,
  ): AsyncIterable<ListObjectsV2CommandOutput> {
    const { bucket, prefix: before, pageSize } = this.options;
    let next: string | undefined;
    do {
      const request = new ListObjectsV2Command({
        Bucket: bucket,
        Prefix: `${before}${prefix}`,
        Delimiter: delimiter,
        ContinuationToken: next,
        MaxKeys: pageSize,
      });
      const page: ListObjectsV2CommandOutput = await this.client.send(request, {
        abortSignal: signal,
      });
      yield page;
      next = page.IsTruncated === true ? page.NextContinuationToken : undefined;
    } while (next !== undefined);
  }

  private at(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.options.bucket, Key: `${this.options.prefix}${key}` };
  }
}
