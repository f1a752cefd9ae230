/** A real nats-server with JetStream and the permissions of production, for one test file. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CONTROL_USER, findNatsServer, natsConfiguration, natsUserOf } from "@torpor/fleet";
import { freePort, tempDir } from "./basics.ts";
import { serverProcess, type ServerProcess } from "./process.ts";
import { ROOT } from "./root.ts";

const PASSWORD = "test";

export interface NatsServer extends ServerProcess, AsyncDisposable {
  url: string;
  /** Credentials of the control side, or of a host. */
  as(hostId?: string): { url: string; user: string; password: string };
}

export async function startNats(hostIds: string[] = []): Promise<NatsServer> {
  const dir = await tempDir();
  const port = await freePort();
  const storeDir = join(dir.path, "store");
  await mkdir(storeDir);
  const users = [{ password: PASSWORD }, ...hostIds.map((hostId) => ({ hostId, password: PASSWORD }))];
  const config = join(dir.path, "server.conf");
  await writeFile(config, await natsConfiguration({ root: ROOT, port, storeDir, users, isDurable: false }));
  const component = {
    name: "nats",
    role: "nats",
    address: `127.0.0.1:${port}`,
    command: await findNatsServer(ROOT),
    args: ["--config", config],
    env: {},
    log: join(dir.path, "log"),
  } as const;
  const server = serverProcess({ ...component, args: [...component.args] }, "SIGKILL");
  await server.start();
  const url = `nats://127.0.0.1:${port}`;
  return {
    ...server,
    url,
    as: (hostId) => ({ url, user: hostId === undefined ? CONTROL_USER : natsUserOf(hostId), password: PASSWORD }),
    [Symbol.asyncDispose]: async () => {
      await server.stop();
      await dir[Symbol.asyncDispose]();
    },
  };
}
