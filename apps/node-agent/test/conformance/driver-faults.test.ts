/**
 * Every call that the driver of Cloud Hypervisor makes for every verb fails once, and the verb is
 * repeated. The ordinary run fails each call in one way, and uses every way somewhere; the
 * exhaustive run fails each call in every way. Whatever failed: a verb that gives up leaves the
 * earlier state or nothing at all, memory that a VMM still has is not destroyed, no half-written
 * file stays, and the repeated verb succeeds.
 */
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { type Fault, setFaults } from "@torpor/fake-cloud-hypervisor";
import { draws, tempDir } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";
import { makeFakeTarget } from "./fake-target.ts";
import { NEVER, Subject, type DriverTarget } from "./target.ts";

/** Most of the time passes in waiting for responses that do not come. */
const AT_ONCE = 5;
const MEMORY = "42";
/** Short enough to give up soon on a VMM that never replies, long enough for a busy machine. */
const HASTY = { status: 4_000, verb: 6_000, start: 10_000, transfer: 6_000, transferPer100Mib: 0 };

const FAULTS: ((call: string) => Fault)[] = [
  (call) => ({ kind: "die", call, when: "before", times: 1 }),
  (call) => ({ kind: "die", call, when: "answered", times: 1 }),
  (call) => ({ kind: "lose-response", call, times: 1 }),
  (call) => ({ kind: "hang", call, when: "before", times: 1 }),
  (call) => ({ kind: "hang", call, when: "after", times: 1 }),
];

type Snapshot = Awaited<ReturnType<Subject["save"]>>;

interface Verb {
  name: string;
  calls: string[];
  /**
   * Puts the VM into the state in which the verb starts. Returns the snapshot from which the VM can
   * be restored, if one was saved.
   */
  before(subject: Subject): Promise<Snapshot | undefined>;
  run(subject: Subject, saved: Snapshot | undefined): Promise<unknown>;
  /** State of the VM before and after the verb. */
  from: "none" | "running" | "paused";
  to: "running" | "paused";
}

const running = async (subject: Subject) => {
  await subject.runWith(Number(MEMORY));
  return undefined;
};
const paused = async (subject: Subject) => {
  await running(subject);
  await subject.pause();
  return await subject.save();
};

const VERBS: Verb[] = [
  {
    name: "boot",
    calls: ["vmm.ping", "vm.create", "vm.info", "vm.boot"],
    before: async () => undefined,
    run: (subject) => subject.driver.boot(subject.vm, NEVER),
    from: "none",
    to: "running",
  },
  {
    name: "pauseVcpus",
    calls: ["vm.info", "vm.pause"],
    before: running,
    run: (subject) => subject.driver.pauseVcpus(subject.vm),
    from: "running",
    to: "paused",
  },
  {
    name: "resumeVcpus",
    calls: ["vm.info", "vm.resume"],
    before: paused,
    run: (subject) => subject.driver.resumeVcpus(subject.vm),
    from: "paused",
    to: "running",
  },
  {
    name: "saveMemory",
    calls: ["vm.info", "vm.snapshot"],
    before: paused,
    run: (subject) => subject.save("snap.2"),
    from: "paused",
    to: "paused",
  },
  {
    name: "restore",
    calls: ["vmm.ping", "vm.restore", "vm.info"],
    before: async (subject) => {
      const saved = await paused(subject);
      await subject.driver.end(subject.vm, { graceMs: 0 });
      return saved;
    },
    run: async (subject, saved) =>
      assert.deepEqual(await subject.restore(saved as Snapshot), { kind: "restored" }),
    from: "none",
    to: "paused",
  },
];

let dir: Awaited<ReturnType<typeof tempDir>>;
let target: DriverTarget;
beforeAll(async () => {
  dir = await tempDir();
  target = await makeFakeTarget(dir.path, HASTY);
});
afterAll(async () => {
  await dir[Symbol.asyncDispose]();
});

/** Checks what is left after the verb has failed, or has not noticed the fault. */
async function checkAfter(
  subject: Subject,
  { from, to }: Verb,
  fault: Fault,
  error: unknown,
): Promise<void> {
  // A dying VMM does not reply for a moment.
  if (fault.kind === "die") await subject.becomesStatus("none");
  const status = await subject.status();
  // The possible states of a VMM that the fault does not end: one that hangs does not reply, and is
  // left alone.
  const living = fault.kind === "hang" ? ["unknown"] : [from, to];
  const allowed =
    fault.kind === "die" ? ["none"] : error !== undefined && from === "none" ? ["none"] : living;
  assert.ok(allowed.includes(status), `it is ${status}, not ${allowed.join(" or ")}`);
  assert.equal(subject.processes().length, status === "none" ? 0 : 1, "processes");
  if (fault.kind === "hang" && error === undefined)
    throw new Error("a verb that gets no answer has not said so");
  if (status !== "none") return;
  const names = await Promise.all(
    ["out", "restore"].map((name) => readdir(join(subject.vm.dir, name)).catch(() => [])),
  );
  if (from === "none") assert.deepEqual(names.flat(), [], "half-made files");
}

/**
 * Repeats the verb with another agent, on what is left; or restores the snapshot, if the memory is
 * lost with its process.
 */
async function repeat(subject: Subject, verb: Verb, saved: Snapshot | undefined): Promise<void> {
  await subject.forget();
  await setFaults(subject.vm.dir, []);
  const status = await subject.status();
  if (verb.from === "none" || status === verb.from || status === verb.to)
    await verb.run(subject, saved);
  else {
    await subject.driver.end(subject.vm, { graceMs: 0 });
    if (saved === undefined) return;
    assert.deepEqual(await subject.restore(saved), { kind: "restored" });
  }
  if ((await subject.status()) === "paused") await subject.goOn();
  if (verb.name === "boot") await subject.becomes();
  else assert.equal(await subject.remembers(), MEMORY);
}

async function failOnce(verb: Verb, fault: Fault, name: string): Promise<void> {
  const subject = await Subject.make(target, name);
  try {
    const saved = await verb.before(subject);
    await setFaults(subject.vm.dir, [fault]);
    const error: unknown = await verb.run(subject, saved).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    await checkAfter(subject, verb, fault, error);
    await repeat(subject, verb, saved);
  } finally {
    await subject.dispose();
  }
}

async function failAll(verb: Verb, faults: Fault[]): Promise<void> {
  const failures: string[] = [];
  const left = faults.map((fault, at) => ({ fault, name: `${verb.name}-${at}` }));
  const work = async () => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) {
      const { fault, name } = next;
      await failOnce(verb, fault, name).catch((error: unknown) =>
        failures.push(`${JSON.stringify(fault)}: ${String(error)}`),
      );
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  expect(failures).toEqual([]);
}

/** The ways rotate over all calls of all verbs; only the first way is drawn. */
const FIRST_WAY = Math.floor(draws("driver-faults")() * FAULTS.length);
const CALLS = VERBS.flatMap(({ name, calls }) => calls.map((call) => `${name} ${call}`));
function drawnFault(verb: string, call: string): Fault {
  const fault = FAULTS[(CALLS.indexOf(`${verb} ${call}`) + FIRST_WAY) % FAULTS.length];
  assert.ok(fault);
  return fault(call);
}

test.each(VERBS)("S19, CH3: $name: each of its calls failed once, then repeated", async (verb) => {
  await failAll(
    verb,
    verb.calls.map((call) => drawnFault(verb.name, call)),
  );
});

test.each(VERBS)(
  "S19, CH3: $name: each of its calls failed once in every way, then repeated",
  { tags: ["exhaustive"] },
  async (verb) => {
    await failAll(
      verb,
      verb.calls.flatMap((call) => FAULTS.map((fault) => fault(call))),
    );
  },
);
