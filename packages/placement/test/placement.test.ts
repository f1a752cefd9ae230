import { describe, expect, test } from "vitest";
import { FleetView } from "../src/index.ts";
import { place, type PlacementPolicy, type PlacementRequest, rank } from "../src/index.ts";
import { aFleetHost as host, aRequest as request, type FleetHost, hostId } from "./fleet-hosts.ts";

const placement = (
  hosts: FleetHost[],
  given: Partial<PlacementRequest> = {},
  policy: PlacementPolicy = "local-first",
) => place(new FleetView(hosts), request(given), policy);
const placedOn = (
  hosts: FleetHost[],
  given: Partial<PlacementRequest> = {},
  policy: PlacementPolicy = "local-first",
) => {
  const made = placement(hosts, given, policy);
  return made.kind === "placed" ? made.host.id : made.reasons;
};

describe("S50: every host that cannot take it is counted with its reason, in words that say what is missing", () => {
  test.each([
    ["other_host", {}, { pinnedHostId: "x" }, "are not x, where it is"],
    ["host_not_ready", { state: "cordoned" }, {}, "are cordoned or draining"],
    ["host_not_ready", { state: "draining" }, {}, "are cordoned or draining"],
    ["region", {}, { region: "us" }, "are not in region us"],
    [
      "labels",
      { labels: { gpu: "no" } },
      { labels: { gpu: "yes", zone: "a" } },
      "have not the labels gpu=yes, zone=a",
    ],
    ["image_missing", { imageSha256s: [] }, {}, "do not have its image aaaaaaaaaaaa"],
    [
      "no_fence",
      {},
      { needsFence: true },
      "run no fence (torpor-fence), without which on_host_loss cannot be restore",
    ],
    [
      "fingerprint",
      {},
      { driverFingerprint: "f2" },
      "have not the VMM or CPU that its snapshot needs",
    ],
    [
      "anti_affinity",
      {},
      { occupiedHostIds: ["a", "b"] },
      "have a sandbox of the same anti-affinity key",
    ],
    ["vcpu", { vcpuUsed: 7 }, {}, "have fewer than 2 vCPU free"],
    ["memory", { memoryMibUsed: 3585 }, {}, "have less than 512 MiB of memory free"],
    ["disk", { diskMibUsed: 901 }, {}, "have less than 100 MiB of disk free"],
  ] as const)("%s", (reason, facts, given, words) => {
    const hosts = [host("a", facts as Partial<FleetHost>), host("b", facts as Partial<FleetHost>)];
    expect(placement(hosts, given as Partial<PlacementRequest>)).toEqual({
      kind: "rejected",
      hosts: 2,
      reasons: { [reason]: 2 },
      message: `None of 2 hosts can take it: 2 ${words}.`,
    });
  });

  test("different reasons are all named, each host once", () => {
    const hosts = [
      host("a", { state: "cordoned", vcpuUsed: 8 }),
      host("b", { vcpuUsed: 8, memoryMibUsed: 4096 }),
      host("c", { memoryMibUsed: 4096 }),
    ];
    const made = placement(hosts);
    expect(made).toMatchObject({
      kind: "rejected",
      hosts: 3,
      reasons: { host_not_ready: 1, vcpu: 1, memory: 1 },
    });
    expect(made.kind === "rejected" && made.message).toBe(
      "None of 3 hosts can take it: 1 are cordoned or draining; 1 have fewer than 2 vCPU free; 1 have less than 512 MiB of memory free.",
    );
  });

  test("of a decision that found a host too: who was passed over, and why", () => {
    const made = placement([host("a", { vcpuUsed: 8 }), host("b"), host("c", { region: "us" })]);
    expect(made).toMatchObject({
      kind: "placed",
      host: { id: "b" },
      hosts: 3,
      reasons: { region: 1, vcpu: 1 },
    });
  });

  test("no host at all", () => {
    expect(placement([])).toEqual({
      kind: "rejected",
      hosts: 0,
      reasons: {},
      message: "No host is registered.",
    });
  });

  test("lost ones are counted before all others, wherever it has to be", () => {
    const fleet = new FleetView([host("a", { vcpuUsed: 8 }), host("b")], 2);
    expect(place(fleet, request(), "local-first")).toMatchObject({
      kind: "placed",
      hosts: 4,
      reasons: { host_lost: 2, vcpu: 1 },
    });
    expect(place(fleet, request({ pinnedHostId: hostId("lost-1") }), "local-first")).toEqual({
      kind: "rejected",
      hosts: 4,
      reasons: { host_lost: 2, other_host: 2 },
      message:
        "None of 4 hosts can take it: 2 are lost (they do not answer); 2 are not lost-1, where it is.",
    });
  });
});

describe("among those that can", () => {
  test("what fits to the last unit is taken", () => {
    expect(placedOn([host("a", { vcpuUsed: 6, memoryMibUsed: 3584, diskMibUsed: 900 })])).toBe("a");
  });

  test("the emptiest is chosen, by what it has least of", () => {
    expect(
      placedOn([
        host("a", { memoryMibUsed: 2048 }),
        host("b", { memoryMibUsed: 1024 }),
        host("c", { vcpuUsed: 6 }),
      ]),
    ).toBe("b");
  });

  test("the host that holds the snapshot wins over an emptier one, and needs no further disk", () => {
    const local = host("local", { memoryMibUsed: 3000, diskMibUsed: 1000 });
    expect(placedOn([host("empty"), local], { localHostId: hostId("local") })).toBe("local");
    expect(placedOn([host("empty"), local])).toBe("empty");
  });

  test("a cordoned host gets only what can run nowhere else", () => {
    const cordoned = host("old", { state: "cordoned" });
    expect(placedOn([cordoned, host("new")], { localHostId: hostId("old") })).toBe("new");
    expect(
      placedOn([cordoned, host("new")], {
        localHostId: hostId("old"),
        pinnedHostId: hostId("old"),
      }),
    ).toBe("old");
  });

  test("a snapshot goes to a host that can restore it, also by an older VMM that is still installed there", () => {
    const updated = host("b", { restorableFingerprints: ["f3", "f2"] });
    expect(placedOn([host("a"), updated], { driverFingerprint: "f2" })).toBe("b");
    expect(
      placedOn([host("a"), host("c", { restorableFingerprints: ["f3"] })], {
        driverFingerprint: "f2",
      }),
    ).toEqual({
      fingerprint: 2,
    });
  });

  test("the host that holds a snapshot judges itself, but one that surely can comes first", () => {
    const local = host("local");
    expect(placedOn([local], { localHostId: hostId("local"), driverFingerprint: "f2" })).toBe(
      "local",
    );
    const sure = host("sure", { restorableFingerprints: ["f2"], memoryMibUsed: 1000 });
    expect(placedOn([local, sure], { localHostId: hostId("local"), driverFingerprint: "f2" })).toBe(
      "local",
    );
    expect(
      placedOn([host("local", { memoryMibUsed: 2000 }), sure], {
        localHostId: hostId("local"),
        driverFingerprint: "f2",
      }),
    ).toBe("sure");
  });

  test("labels are all needed, with their values", () => {
    const hosts = [
      host("a", { labels: { zone: "a" } }),
      host("b", { labels: { zone: "a", gpu: "no" } }),
      host("c", { labels: { zone: "a", gpu: "yes" } }),
    ];
    expect(placedOn(hosts, { labels: { gpu: "yes", zone: "a" } })).toBe("c");
    expect(placedOn(hosts, { labels: { gpu: "yes", zone: "b" } })).toEqual({ labels: 3 });
  });

  test("no second sandbox of a key is brought to a host; the one that is there may go on there", () => {
    expect(
      placedOn([host("a"), host("b", { memoryMibUsed: 3000 })], { occupiedHostIds: [hostId("a")] }),
    ).toBe("b");
    expect(
      placedOn([host("a"), host("b")], {
        occupiedHostIds: [hostId("a")],
        localHostId: hostId("a"),
      }),
    ).toBe("a");
    expect(
      placedOn([host("a"), host("b")], { occupiedHostIds: [hostId("a"), hostId("b")] }),
    ).toEqual({
      anti_affinity: 2,
    });
  });

  test("labels, region and fence bind where it is too: they may have been taken from the host since", () => {
    const local = { localHostId: hostId("a"), pinnedHostId: hostId("a") };
    expect(placedOn([host("a")], { ...local, labels: { gpu: "yes" } })).toEqual({ labels: 1 });
    expect(placedOn([host("a", { region: "us" })], local)).toEqual({ region: 1 });
    expect(placedOn([host("a")], { ...local, needsFence: true })).toEqual({ no_fence: 1 });
  });

  test("what the same fleet was told is held counts in the next decision, and no longer once it is let go", () => {
    const fleet = new FleetView([host("a", { vcpuUsed: 4 })]);
    const size = { vcpu: 2, memoryMib: 512, diskMib: 100 };
    const once = () => place(fleet, request(), "local-first").kind;
    fleet.hold(hostId("a"), size);
    expect(once()).toBe("placed");
    fleet.hold(hostId("a"), size);
    expect(once()).toBe("rejected");
    fleet.hold(hostId("a"), { vcpu: -2, memoryMib: -512, diskMib: -100 });
    expect(once()).toBe("placed");
    fleet.hold(hostId("elsewhere"), size);
    expect(once()).toBe("placed");
  });
});

describe("policies", () => {
  const full = host("full", { memoryMibUsed: 3000, vcpuUsed: 5 });
  const empty = host("empty");

  test.each([
    ["local-first", "empty"],
    ["spread", "empty"],
    ["binpack", "full"],
  ] as const)("a new one: %s chooses the %s host", (policy, chosen) => {
    expect(placedOn([full, empty], {}, policy)).toBe(chosen);
    expect(placedOn([empty, full], {}, policy)).toBe(chosen);
  });

  test.each([
    ["local-first", "full", "empty"],
    ["spread", "empty", "empty"],
    ["binpack", "full", "full"],
  ] as const)(
    "one that has been on the full host, or on the empty one: %s brings it to %s, %s",
    (policy, ofFull, ofEmpty) => {
      expect(placedOn([full, empty], { localHostId: hostId("full") }, policy)).toBe(ofFull);
      expect(placedOn([full, empty], { localHostId: hostId("empty") }, policy)).toBe(ofEmpty);
    },
  );

  test("of two that are equally good, the one that holds it is chosen, and heads the ranking", () => {
    // `home` has half the share left that `away` has, and the bonus of a quarter.
    const hosts = [host("away", { vcpuUsed: 2 }), host("home", { vcpuUsed: 4 })];
    for (const all of [hosts, hosts.toReversed()]) {
      expect(placedOn(all, { localHostId: hostId("home") }, "spread")).toBe("home");
      const { candidates } = rank(
        new FleetView(all),
        request({ localHostId: hostId("home") }),
        "spread",
        2,
      );
      expect(candidates).toMatchObject([
        { hostId: "home", score: 0.5 },
        { hostId: "away", score: 0.5 },
      ]);
    }
  });

  test.each(["spread", "binpack"] as const)(
    "%s leaves it where it is for a small gain",
    (policy) => {
      const hosts = [
        host("a", { memoryMibUsed: 1000, vcpuUsed: 2 }),
        host("b", { memoryMibUsed: 1400, vcpuUsed: 2 }),
      ];
      for (const localHostId of ["a", "b"].map(hostId))
        expect(placedOn(hosts, { localHostId }, policy)).toBe(localHostId);
    },
  );
});

describe("starts under way", () => {
  const busy = (startsUnderWay: number, startsAtOnce: number | null = 2) => ({
    startsUnderWay,
    startsAtOnce,
  });

  test("cost nothing while a slot is free, and nothing on a host that has not said how many it does at once", () => {
    for (const policy of ["local-first", "spread"] as const) {
      expect(placedOn([host("a", busy(1)), host("b", { memoryMibUsed: 1 })], {}, policy)).toBe("a");
      expect(
        placedOn([host("a", busy(9, null)), host("b", { memoryMibUsed: 1 })], {}, policy),
      ).toBe("a");
    }
  });

  test.each(["local-first", "spread", "binpack"] as const)(
    "%s: a new one goes where it waits for fewer rounds of starts",
    (policy) => {
      expect(placedOn([host("a", busy(4)), host("b", busy(3))], {}, policy)).toBe("b");
      // Seven starts, eight at once, are fewer rounds than two starts, two at once.
      expect(placedOn([host("a", busy(2)), host("b", busy(7, 8))], {}, policy)).toBe("b");
    },
  );

  test("what a host lacks still decides, however much waits on the others", () => {
    expect(placedOn([host("a", busy(100)), host("b", { vcpuUsed: 8 })])).toBe("a");
    expect(placedOn([host("a", busy(100)), host("b", { state: "cordoned" })])).toBe("a");
  });

  test("a sandbox that its host can resume stays there under local-first, and moves under the others for less than a quarter", () => {
    const hosts = [host("home", busy(9)), host("away", busy(0))];
    expect(placedOn(hosts, { localHostId: hostId("home") })).toBe("home");
    expect(placedOn(hosts, { localHostId: hostId("home") }, "spread")).toBe("away");
    expect(
      placedOn(
        [host("home", busy(2)), host("away", busy(0))],
        { localHostId: hostId("home") },
        "spread",
      ),
    ).toBe("home");
  });

  test("a crowd is spread by what each does at once", () => {
    const fleet = new FleetView([
      host("small", { ...busy(0), memoryMibCapacity: 65_536, vcpuCapacity: 64 }),
      host("large", busy(0, 8)),
    ]);
    const placed = { small: 0, large: 0 };
    for (let made = 0; made < 10; made += 1) {
      const decision = place(fleet, request({ vcpu: 0, memoryMib: 0, diskMib: 0 }), "local-first");
      if (decision.kind !== "placed") throw new Error(decision.message);
      placed[decision.host.id as keyof typeof placed] += 1;
      fleet.holdStart(decision.host.id);
    }
    expect(placed).toEqual({ small: 2, large: 8 });
  });
});

test("a ranking has the candidates best first, as many as asked for, and counts the rest; the first is what would be chosen", () => {
  const hosts = [
    host("a", { memoryMibUsed: 1024 }),
    host("b", { state: "cordoned" }),
    host("c"),
    host("d", { memoryMibUsed: 2048 }),
  ];
  const ranking = rank(
    new FleetView(hosts),
    request({ localHostId: hostId("d") }),
    "local-first",
    2,
  );
  expect(ranking).toMatchObject({ hosts: 4, reasons: { host_not_ready: 1 }, candidateCount: 3 });
  expect(ranking.candidates).toEqual([
    { hostId: "d", score: 1.375, isLocal: true },
    { hostId: "c", score: 0.75, isLocal: false },
  ]);
  expect(ranking.message).toBeUndefined();
  expect(rank(new FleetView(hosts), request({ vcpu: 9 }), "local-first", 2)).toMatchObject({
    candidates: [],
    candidateCount: 0,
    reasons: { host_not_ready: 1, vcpu: 3 },
    message:
      "None of 4 hosts can take it: 1 are cordoned or draining; 3 have fewer than 9 vCPU free.",
  });
});
