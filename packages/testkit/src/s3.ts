/** An S3 server with a bucket, for one test file: rclone over a directory. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, readdir } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { claimPort } from "@torpor/service";
import { tempDir, until } from "./basics.ts";
import { ROOT } from "./root.ts";

const BUCKET = "snapshots";
const START_LIMIT_MS = 30_000;

export interface S3Server extends AsyncDisposable {
  endpoint: string;
  bucket: string;
  /** Directory of the bucket: each object is a file in it. */
  dir: string;
  credentials: { accessKeyId: string; secretAccessKey: string };
  start(): Promise<void>;
  /** Stored objects stay. */
  stop(): Promise<void>;
}

export async function startS3(): Promise<S3Server> {
  const dir = await tempDir();
  const { port } = await claimPort();
  const credentials = { accessKeyId: "test-key", secretAccessKey: "test-secret" };
  const key = `${credentials.accessKeyId},${credentials.secretAccessKey}`;
  await mkdir(join(dir.path, "data", BUCKET), { recursive: true });
  const command = await findRclone();
  const args = [
    "serve",
    "s3",
    join(dir.path, "data"),
    "--addr",
    `127.0.0.1:${port}`,
    "--auth-key",
    key,
    "--config",
    "/dev/null",
  ];
  let child: ChildProcess | undefined;
  const server: S3Server = {
    endpoint: `http://127.0.0.1:${port}`,
    bucket: BUCKET,
    dir: join(dir.path, "data", BUCKET),
    credentials,
    start: async () => {
      const env = { PATH: process.env["PATH"], HOME: dir.path, TMPDIR: process.env["TMPDIR"] };
      child = spawn(command, [...args, "--cache-dir", join(dir.path, "cache")], {
        stdio: "ignore",
        env,
      });
      await until("the S3 server takes connections", () => takesConnections(port), START_LIMIT_MS);
    },
    stop: async () => {
      if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    },
    [Symbol.asyncDispose]: async () => {
      await server.stop();
      await dir[Symbol.asyncDispose]();
    },
  };
  await server.start();
  return server;
}

/** TORPOR_RCLONE_BIN, or else the binary that `./torpor test` has fetched. */
async function findRclone(): Promise<string> {
  const own = process.env["TORPOR_RCLONE_BIN"];
  if (own !== undefined && own !== "") return own;
  const tools = join(ROOT, ".torpor/tools");
  const names = await readdir(tools, { recursive: true }).catch(() => []);
  const found = names.find((name) => name.endsWith("/scripts/rclone"));
  if (found === undefined)
    throw new Error(
      "there is no rclone: start the tests by ./torpor test, which fetches it, or set TORPOR_RCLONE_BIN to where it is",
    );
  await chmod(join(tools, found), 0o755);
  return join(tools, found);
}

async function takesConnections(port: number): Promise<boolean> {
  const socket = connect(port, "127.0.0.1");
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
