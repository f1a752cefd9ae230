/**
 * The agent in the image's own tree, on this machine's processor: all of a sandbox except the
 * virtual machine, its cgroups and its disk. It runs in its own namespaces, with a layer in memory
 * above the image.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { bundleGuestAgent } from "../build.ts";
import { AgentProcess, freePort, KEY, until } from "./harness.ts";

const PACKAGE = fileURLToPath(new URL("..", import.meta.url));
const IMAGE = fileURLToPath(
  new URL("../../../.torpor/images/code-interpreter/rootfs.ext4", import.meta.url),
);

/** The end of the namespaces removes all mounts. */
const BRING_UP = `
set -e
mount -o loop,ro "$IMAGE" "$ROOT/base"
mount -t tmpfs tmpfs "$ROOT/layer"
mkdir "$ROOT/layer/upper" "$ROOT/layer/work"
mount -t overlay -o "lowerdir=$ROOT/base,upperdir=$ROOT/layer/upper,workdir=$ROOT/layer/work" overlay "$ROOT/tree"
mount -t proc proc "$ROOT/tree/proc"
mount -t tmpfs tmpfs "$ROOT/tree/dev"
for name in null zero full random urandom tty; do touch "$ROOT/tree/dev/$name"; mount --bind "/dev/$name" "$ROOT/tree/dev/$name"; done
mkdir -p "$ROOT/tree/dev/shm" "$ROOT/tree/dev/pts" "$ROOT/tree/run" "$ROOT/tree/workspace"
mount -t tmpfs tmpfs "$ROOT/tree/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$ROOT/tree/dev/pts"
ln -s pts/ptmx "$ROOT/tree/dev/ptmx"
ln -s /proc/self/fd "$ROOT/tree/dev/fd"
mount -t tmpfs tmpfs "$ROOT/tree/run"
mkdir "$ROOT/tree/run/torpor"
cp "$AGENT" "$ROOT/tree/run/torpor/agent.cjs"
cp "$GUEST"/*.py "$ROOT/tree/run/torpor/"
cp "$GUEST"/*.cjs "$ROOT/tree/run/torpor/"
printf %s "$KEY" > "$ROOT/tree/run/torpor/agent-key"
exec chroot "$ROOT/tree" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TORPOR_GUEST_ROOT=/ TORPOR_GUEST_PORT="$PORT" TORPOR_GUEST_HELPERS=/run/torpor node /run/torpor/agent.cjs
`;

class ImageAgent extends AgentProcess {
  /** Ends the first process of the namespaces, and with it all others in them. */
  override async [Symbol.asyncDispose](): Promise<void> {
    await end(this.process);
    await rm(this.root, { recursive: true, force: true });
  }
}

export async function startImageAgent(): Promise<AgentProcess> {
  const root = await mkdtemp(join(tmpdir(), "torpor-image-"));
  for (const name of ["base", "layer", "tree"]) await mkdir(join(root, name));
  const agentFile = join(root, "agent.cjs");
  await bundleGuestAgent(agentFile);
  const port = await freePort();
  const child = spawn(
    "unshare",
    [
      "--mount",
      "--pid",
      "--ipc",
      "--uts",
      "--fork",
      "--kill-child",
      "--propagation",
      "private",
      "bash",
      "-c",
      BRING_UP,
    ],
    {
      env: {
        ...process.env,
        ROOT: root,
        IMAGE,
        AGENT: agentFile,
        GUEST: join(PACKAGE, "guest"),
        PORT: String(port),
        KEY,
      },
      stdio: ["ignore", "inherit", "inherit"],
    },
  );
  const agent = new ImageAgent(root, port, child);
  await until("the agent answers", async () => {
    if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}`);
    return (await fetch(`${agent.url}/ping`).catch(() => undefined))?.ok === true;
  });
  return agent;
}

async function end(child: ChildProcess): Promise<void> {
  child.kill("SIGKILL");
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
}
