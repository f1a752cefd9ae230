import { describe, expect, test } from "vitest";
import {
  linkCount,
  linkOf,
  overlaps,
  parseAddress,
  parseRange,
} from "../src/host/isolation/addresses.ts";
import { isVmCgroup, scopeName, slotOf, tagOf, vethName } from "../src/host/isolation/naming.ts";

describe("addresses of VMs' links", () => {
  test("a range has to be aligned IPv4", () => {
    expect(parseRange("10.213.0.0/16")).toEqual({
      first: 10 * 2 ** 24 + 213 * 2 ** 16,
      bits: 16,
      text: "10.213.0.0/16",
    });
    for (const wrong of [
      "10.213.0.1/16",
      "10.213.0.0",
      "10.213.0.0/33",
      "10.213.0/16",
      "fd00::/8",
      "10.256.0.0/16",
      "",
    ])
      expect(() => parseRange(wrong)).toThrow("no IPv4 range");
    expect(parseAddress("::1")).toBeUndefined();
  });

  test("ranges overlap when one holds an address of the other", () => {
    const ours = parseRange("10.213.0.0/16");
    for (const other of ["10.0.0.0/8", "10.213.255.255/32", "0.0.0.0/0", "10.213.0.0/16"])
      expect(overlaps(ours, parseRange(other))).toBe(true);
    for (const other of ["10.214.0.0/16", "10.212.0.0/16", "192.168.0.0/16"])
      expect(overlaps(ours, parseRange(other))).toBe(false);
  });

  test("each slot of an agent has addresses of its own, inside the range, whatever its tag", () => {
    const range = parseRange("10.213.0.0/24");
    for (const tag of ["000000", "ffffff", tagOf("/var/lib/torpor")]) {
      const links = Array.from({ length: linkCount(range) }, (_, slot) => linkOf(range, tag, slot));
      const addresses = links.flatMap(({ host, guest }) => [host, guest]);
      expect(new Set(addresses).size).toBe(254);
      expect(addresses.every((address) => overlaps(range, parseRange(`${address}/32`)))).toBe(true);
      expect(addresses).not.toContain("10.213.0.0");
      expect(new Set(links.flatMap(({ hostMac, guestMac }) => [hostMac, guestMac])).size).toBe(254);
    }
  });
});

describe("names on the host", () => {
  test("an agent knows its own names, and those alone", () => {
    expect(tagOf("/var/lib/torpor/")).toBe(tagOf("/var/lib/torpor"));
    expect(slotOf("abcdef", "torpor-abcdef-12")).toBe(12);
    expect(slotOf("abcdef", vethName("abcdef", 99_998))).toBe(99_998);
    expect(vethName("abcdef", 99_998).length).toBeLessThanOrEqual(15);
    for (const foreign of [
      "torpor-abcde0-12",
      "tvabcde012",
      "torpor-abcdef-x",
      "torpor-abcdef-1-2",
      "torpor-abcdef-",
      "eth0",
      "xtorpor-abcdef-1",
    ])
      expect(slotOf("abcdef", foreign)).toBeUndefined();
  });

  test("only a VM's cgroup can be frozen as one", () => {
    for (const path of [
      "/torpor-abcdef/1795490791abcdefgh",
      `/torpor.slice/torpor-vms.slice/${scopeName("abcdef", "1795490791abcdefgh", "0a")}`,
    ])
      expect(isVmCgroup(path)).toBe(true);
    for (const path of [
      "/",
      "/torpor-abcdef",
      "/system.slice/torpor-node-agent.service",
      "/user.slice/user-0.slice/session-1.scope",
    ])
      expect(isVmCgroup(path)).toBe(false);
  });
});
