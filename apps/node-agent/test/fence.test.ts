/** The rule by which the fence freezes and thaws, and how a lease continues or begins again. */
import type { SandboxId } from "@torpor/contracts";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { bootMs, startedAtBootMs } from "../src/fence/clock.ts";
import type { Frozen, Lease, Permit, Run } from "../src/fence/files.ts";
import { mayRun, renewed } from "../src/fence/rule.ts";
import { identify } from "@torpor/service";

const run = (startedMs: number, given: Partial<Run> = {}): Run => ({
  sandboxId: "s" as SandboxId,
  epoch: 3,
  pid: 7,
  startTime: String(startedMs / 10),
  bootId: "boot",
  ...given,
});
const lease = (sinceBootMs: number, untilBootMs: number): Lease => ({
  bootId: "boot",
  sinceBootMs,
  untilBootMs,
});
const frozen = (of: Run): Frozen => ({ ...of, by: "signal", frozenAt: "", frozenAtBootMs: 0 });
const permit = (of: Run, sinceBootMs: number): Permit => ({ ...of, sinceBootMs });

describe("a guarded VM", () => {
  test("runs until its host's lease ends, to the millisecond, and not without one", () => {
    const vm = { run: run(1_000) };
    expect(mayRun(vm, lease(1_000, 5_000), 4_999)).toBe(true);
    expect(mayRun(vm, lease(1_000, 5_000), 5_000)).toBe(false);
    expect(mayRun(vm, undefined, 2_000)).toBe(false);
  });

  test("that was there before the lease began stands until it is permitted", () => {
    const vm = { run: run(990) };
    expect(mayRun(vm, lease(1_000, 5_000), 2_000)).toBe(false);
    expect(mayRun({ ...vm, permit: permit(vm.run, 1_000) }, lease(1_000, 5_000), 2_000)).toBe(true);
  });

  test("that was frozen stays so, however long its lease has run", () => {
    const vm = { run: run(1_000), frozen: frozen(run(1_000)) };
    expect(mayRun(vm, lease(1_000, 5_000), 2_000)).toBe(false);
  });

  test("is not permitted by what was said of another process, of an earlier run, or under an earlier lease", () => {
    const vm = { run: run(500), frozen: frozen(run(500)) };
    const current = lease(1_000, 5_000);
    const others = [
      permit(run(500, { pid: 8 }), 1_000),
      permit(run(490), 1_000),
      permit(run(500, { bootId: "other" }), 1_000),
      permit(run(500, { epoch: 2 }), 1_000),
      permit(run(500), 900),
    ];
    for (const other of others)
      expect(mayRun({ ...vm, permit: other }, current, 2_000), JSON.stringify(other)).toBe(false);
    expect(
      mayRun({ ...vm, permit: permit(run(500), 1_000) }, current, 5_000),
      "after the lease",
    ).toBe(false);
  });
});

describe("a lease that is renewed", () => {
  test("goes on without a gap when the answer came before the one before it had ended", () => {
    const before = lease(100, 1_000);
    const on = { sinceBootMs: 100, untilBootMs: 1_400 };
    expect(renewed(before, { askedAtBootMs: 400, answeredAtBootMs: 410, leaseMs: 1_000 })).toEqual(
      on,
    );
    expect(
      renewed(before, { askedAtBootMs: 400, answeredAtBootMs: 1_000, leaseMs: 1_000 }),
    ).toEqual({ ...on, sinceBootMs: 1_000 });
    expect(
      renewed(undefined, { askedAtBootMs: 400, answeredAtBootMs: 410, leaseMs: 1_000 }),
    ).toEqual({ ...on, sinceBootMs: 410 });
  });

  /**
   * Renewals that arrive after any delay. The control plane grants at any moment between request
   * and reply, and VMs start whenever the host has its lease.
   */
  test("ends no later than the control plane's, and lets no VM run unasked that was started before a gap in that", () => {
    const renewal = fc.record({
      waitMs: fc.nat(3_000),
      toGrantMs: fc.nat(2_000),
      toAnswerMs: fc.nat(2_000),
      startsAfterMs: fc.nat(4_000),
    });
    fc.assert(
      fc.property(
        fc.array(renewal, { minLength: 1, maxLength: 20 }),
        fc.integer({ min: 100, max: 3_000 }),
        (renewals, leaseMs) => {
          let now = 0;
          let host: Lease | undefined;
          let controlUntil = 0;
          let controlUnbrokenSince = 0;
          const started: number[] = [];
          for (const { waitMs, toGrantMs, toAnswerMs, startsAfterMs } of renewals) {
            const startsAt = now + startsAfterMs;
            const askedAtBootMs = now + waitMs;
            const grantedAt = askedAtBootMs + toGrantMs;
            if (grantedAt >= controlUntil) controlUnbrokenSince = grantedAt;
            controlUntil = grantedAt + leaseMs;
            now = grantedAt + toAnswerMs;
            if (host !== undefined && startsAt < Math.min(now, host.untilBootMs))
              started.push(startsAt);
            host = {
              bootId: "boot",
              ...renewed(host, { askedAtBootMs, answeredAtBootMs: now, leaseMs }),
            };
            expect(host.untilBootMs).toBeLessThanOrEqual(controlUntil);
            if (now >= host.untilBootMs) continue;
            started.push(now);
            for (const at of started)
              if (mayRun({ run: run(at) }, host, now))
                expect(at).toBeGreaterThanOrEqual(controlUnbrokenSince);
          }
        },
      ),
    );
  });
});

test("a process was started when the boot clock says so", () => {
  const self = identify(process.pid);
  if (self === undefined) throw new Error("this process is not in /proc");
  const ageMs = bootMs() - startedAtBootMs(self);
  expect(Math.abs(ageMs - process.uptime() * 1000)).toBeLessThan(2_000);
});
