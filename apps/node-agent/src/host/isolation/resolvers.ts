/** Which name servers guests use: the configured ones, else the machine's. */
import { readFile } from "node:fs/promises";
import { parseAddress } from "./addresses.ts";

/** The second one lists what a local stub resolver, which no guest could reach, asks itself. */
const FILES = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/** IPv4 only, none on the loopback. Throws when the setting is not a list of addresses. */
export async function findResolvers(setting: string | undefined): Promise<string[]> {
  if (setting !== undefined && setting.trim() !== "") {
    const given = setting.split(",").map((text) => text.trim());
    const wrong = given.find((text) => parseAddress(text) === undefined);
    if (wrong !== undefined) throw new Error(`EGRESS_DNS has to be IPv4 addresses with commas between them; "${wrong}" is none`);
    return [...new Set(given)];
  }
  for (const file of FILES) {
    const text = await readFile(file, "utf8").catch(() => "");
    const found = [...text.matchAll(/^nameserver\s+(\S+)/gm)].flatMap(([, address = ""]) =>
      parseAddress(address) === undefined || address.startsWith("127.") ? [] : [address],
    );
    if (found.length > 0) return [...new Set(found)];
  }
  return [];
}
