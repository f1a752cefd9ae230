/** Configuration of a fleet's NATS server, written again as infra/nats does. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { publicKeyOf } from "@torpor/bus";
import { natsConfiguration, type NatsTls, type NatsUser, tlsFilesOf } from "@torpor/fleet";
import { ROOT, type TestFleet, until } from "@torpor/testkit";

const controlKey = async ({ fleet }: TestFleet) =>
  publicKeyOf(await readFile(join(fleet.dir, "secrets/nats-control.seed"), "utf8"));

/**
 * Writes the configuration, which the server does not read yet. With `tls` null there is no TLS.
 */
export async function writeNats(
  { fleet }: TestFleet,
  users: NatsUser[],
  tls: NatsTls | null = tlsFilesOf(fleet.dir, "server"),
): Promise<void> {
  const nats = fleet.component("nats");
  const configuration = await natsConfiguration({
    root: ROOT,
    name: "nats",
    listen: nats.address,
    monitor: new URL(nats.healthUrl ?? "").host,
    storeDir: join(fleet.dir, "nats"),
    users,
    isDurable: false,
    ...(tls === null ? {} : { tls }),
  });
  await writeFile(nats.args.at(-1) ?? "", configuration);
}

/**
 * Makes the server read changed users. Returns when the server has read the configuration twice,
 * which is what torpor-nats.service does.
 */
export async function reloadNats({ fleet }: TestFleet): Promise<void> {
  const { log } = fleet.component("nats");
  const reloads = async () =>
    (await readFile(log, "utf8")).split("Reloaded server configuration").length;
  for (let times = 1; times <= 2; times += 1) {
    const before = await reloads();
    fleet.signal("nats", "SIGHUP");
    await until("it is reloaded", async () => (await reloads()) > before);
  }
}

/** From now on the server knows exactly the hosts that have joined. */
export async function followAdmissions(fleet: TestFleet): Promise<void> {
  const admitted = (await Array.fromAsync(fleet.client.admissions.list())).map((one) => ({
    hostId: one.host_id,
    publicKeys: one.nats_public_keys,
  }));
  await writeNats(fleet, [{ publicKeys: [await controlKey(fleet)] }, ...admitted]);
  await reloadNats(fleet);
}
