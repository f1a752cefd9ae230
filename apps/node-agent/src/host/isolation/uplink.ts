/** The namespace in which VMs' links end: checks of it, and its own rules. */
import { readFile, stat } from "node:fs/promises";
import { overlaps, parseRange, type Range } from "./addresses.ts";
import { command, inside } from "./commands.ts";
import { type Egress, uplinkRules } from "./firewall.ts";
import { isVeth, uplinkTableName } from "./naming.ts";

/** Throws if the range overlaps a network of the machine. */
export async function refuseCollision(range: Range, uplink: string | undefined): Promise<void> {
  const text = await command(
    inside(uplink, ["ip", "-json", "-4", "route", "show", "table", "main"]),
  );
  for (const { dst, dev } of JSON.parse(text === "" ? "[]" : text) as {
    dst: string;
    dev?: string;
  }[]) {
    if (dst === "default" || (dev !== undefined && isVeth(dev))) continue;
    if (overlaps(range, parseRange(dst.includes("/") ? dst : `${dst}/32`)))
      throw new Error(
        `VM_NETWORK_CIDR ${range.text} overlaps a network of this machine (route ${dst}${dev === undefined ? "" : ` on ${dev}`}): set it to a range that is free here`,
      );
  }
}

/** True if the uplink is the agent's own namespace. */
export async function isOwnNetwork(uplink: string | undefined): Promise<boolean> {
  if (uplink === undefined) return true;
  const [own, named] = await Promise.all([stat("/proc/self/ns/net"), stat(`/run/netns/${uplink}`)]);
  return own.ino === named.ino && own.dev === named.dev;
}

/**
 * True if packets can pass through the uplink. Forwarding is switched on in a namespace that was
 * made for Torpor; the machine's own setting is left to its operator.
 */
export async function forwards(uplink: string | undefined): Promise<boolean> {
  if (uplink === undefined)
    return (await readFile("/proc/sys/net/ipv4/ip_forward", "utf8")).trim() === "1";
  const isOurs = uplink.startsWith("torpor-");
  const file = "/proc/sys/net/ipv4/ip_forward";
  return (
    (
      await command(
        inside(uplink, ["sh", "-euc", `${isOurs ? `echo 1 > ${file}; ` : ""}cat ${file}`]),
      )
    ).trim() === "1"
  );
}

export async function setUplinkRules(
  tag: string,
  uplink: string | undefined,
  egress: Egress,
): Promise<void> {
  await command(inside(uplink, ["nft", "-f", "-"]), uplinkRules(tag, egress));
}

/** Removes the rules of the uplink. Can be repeated. */
export async function dropUplinkRules(tag: string, uplink: string | undefined): Promise<void> {
  const table = uplinkTableName(tag);
  await command(
    inside(uplink, ["nft", "-f", "-"]),
    `table inet ${table}\ndelete table inet ${table}\n`,
  );
}
