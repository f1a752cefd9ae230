/** Name servers of guests: the configured ones, else the machine's. */
import { readFile } from "node:fs/promises";
import { parseAddress } from "./addresses.ts";
import { GUEST_NETWORK } from "./firewall.ts";

/** The second file lists the servers behind a local stub resolver, which no guest could reach. */
const FILES = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

const isLoopback = (address: string) => address.startsWith("127.");

/**
 * IPv4 only, none on a loopback and none in the guests' own network. Throws when the setting is not
 * a list of such addresses.
 */
export async function findResolvers(setting: string | undefined): Promise<string[]> {
  if (setting !== undefined && setting.trim() !== "") {
    const given = setting.split(",").map((text) => text.trim());
    const wrong = given.find((text) => parseAddress(text) === undefined);
    if (wrong !== undefined)
      throw new Error(
        `EGRESS_DNS has to be IPv4 addresses with commas between them; "${wrong}" is none`,
      );
    const inside = given.find((text) => text.startsWith(GUEST_NETWORK));
    if (inside !== undefined)
      throw new Error(
        `EGRESS_DNS has ${inside}, which no guest can reach: 10.0.2.0/24 is the guests' own network`,
      );
    const loopback = given.find(isLoopback);
    if (loopback !== undefined)
      throw new Error(
        `EGRESS_DNS has ${loopback}, which no guest can reach: it would be the guest's own loopback`,
      );
    return [...new Set(given)];
  }
  for (const file of FILES) {
    const text = await readFile(file, "utf8").catch(() => "");
    const found = [...text.matchAll(/^nameserver\s+(\S+)/gm)].flatMap(([, address = ""]) =>
      parseAddress(address) === undefined ||
      isLoopback(address) ||
      address.startsWith(GUEST_NETWORK)
        ? []
        : [address],
    );
    if (found.length > 0) return [...new Set(found)];
  }
  return [];
}
