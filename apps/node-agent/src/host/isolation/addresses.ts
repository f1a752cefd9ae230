/**
 * Addresses of the links between VMs' namespaces and the host: pairs out of one configured range.
 */

export interface Range {
  first: number;
  bits: number;
  text: string;
}

/** Parses `a.b.c.d/n`. Throws if the text is no range, or the range is not aligned. */
export function parseRange(text: string): Range {
  const [address = "", bitsText = ""] = text.split("/");
  const bits = Number(bitsText);
  const first = /^\d+$/.test(bitsText) && bits <= 32 ? parseAddress(address) : undefined;
  if (first === undefined || first % 2 ** (32 - bits) !== 0)
    throw new Error(`"${text}" is no IPv4 range like 10.213.0.0/16`);
  return { first, bits, text };
}

/** Number of an IPv4 address; undefined if the text is none. */
export function parseAddress(text: string): number | undefined {
  const parts = text.split(".").map((part) => (/^\d{1,3}$/.test(part) ? Number(part) : 256));
  if (parts.length !== 4 || parts.some((part) => part > 255)) return undefined;
  return parts.reduce((value, part) => value * 256 + part, 0);
}

function formatAddress(value: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256).join(".");
}

export function overlaps(a: Range, b: Range): boolean {
  const size = (range: Range) => 2 ** (32 - range.bits);
  return a.first < b.first + size(b) && b.first < a.first + size(a);
}

/** Both ends of a slot's link. */
export interface Link {
  host: string;
  guest: string;
  hostMac: string;
  guestMac: string;
}

/**
 * Number of links in the range. The first pair, which holds the range's own number, is left out.
 */
export const linkCount = (range: Range) => 2 ** (31 - range.bits) - 1;

/**
 * Link of a slot. Agents on one machine share the range; each begins at an offset that follows from
 * its tag. If two collide, the kernel lets only one add the route (slots.ts), and the other takes
 * its next slot.
 */
export function linkOf(range: Range, tag: string, slot: number): Link {
  const count = linkCount(range);
  const index = 1 + ((Number.parseInt(tag, 16) + slot) % count);
  const [host, guest] = [range.first + 2 * index, range.first + 2 * index + 1];
  return {
    host: formatAddress(host),
    guest: formatAddress(guest),
    hostMac: macOf(host),
    guestMac: macOf(guest),
  };
}

/**
 * Fixed and locally administered: an address that the kernel chooses may change under a running VM.
 */
function macOf(address: number): string {
  const hex = address.toString(16).padStart(8, "0");
  return ["02", "fc", ...(hex.match(/../g) ?? [])].join(":");
}
