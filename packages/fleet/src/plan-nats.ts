/** The NATS servers of a local fleet: a single one, named `nats`, or a cluster on loopback. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { publicKeyOf } from "@torpor/bus";
import { tlsFilesOf } from "./certificates.ts";
import { CONTROL_USER, findNatsServer, natsConfiguration } from "./nats.ts";
import {
  type FleetOptions,
  hostIdsOf,
  loopback,
  type Ports,
  secretFile,
  seedName,
} from "./plan.ts";
import type { Component } from "./state.ts";

export const natsUrlOf = ({ nats }: Pick<Ports, "nats">) =>
  nats.map(({ client }) => `tls://${loopback(client)}`).join(",");

/** Writes the configuration of each server, with the passwords and seeds from `secrets`. */
export async function planNats(
  options: FleetOptions,
  ports: Ports,
  secrets: (name: string) => string,
): Promise<Component[]> {
  const { root, dir, isDurable } = options;
  const keysOf = (name: string) => [publicKeyOf(secrets(seedName(name)))];
  const hosts = hostIdsOf(options).map((hostId) => ({ hostId, publicKeys: keysOf(hostId) }));
  const users = [{ publicKeys: keysOf(CONTROL_USER) }, ...hosts];
  const tls = tlsFilesOf(dir, "server");
  const routes = ports.nats.map(({ route }) => loopback(route));
  const command = await findNatsServer(root);
  return await Promise.all(
    ports.nats.map(async ({ client, monitor, route }, at): Promise<Component> => {
      const isAlone = ports.nats.length === 1;
      const name = isAlone ? "nats" : `nats-${at + 1}`;
      const storeDir = join(dir, name);
      await mkdir(storeDir, { recursive: true });
      const address = { listen: loopback(client), monitor: loopback(monitor) };
      const cluster = isAlone
        ? {}
        : { cluster: { listen: loopback(route), routes, password: secrets("nats-route") } };
      const file = secretFile(dir, `${name}.conf`);
      await writeFile(
        file,
        await natsConfiguration({
          root,
          name,
          storeDir,
          users,
          isDurable,
          tls,
          ...address,
          ...cluster,
        }),
        {
          mode: 0o600,
        },
      );
      return {
        name,
        role: "nats",
        address: address.listen,
        healthUrl: `http://${address.monitor}/healthz`,
        command,
        args: ["--config", file],
        env: { PATH: process.env["PATH"] ?? "" },
        log: join(dir, `logs/${name}.log`),
      };
    }),
  );
}
