/** The hybrid vsock. Cases that need a listener in the guest run only where its port is known. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { type Case, expectStatus, RESTORE, type Stage, vmCase } from "../support/stage.ts";
import { RawConnection, type VmmProcess } from "../support/vmm.ts";

const NOBODY_LISTENS = 9;
const SILENCE_MS = 500;
const ATTEMPT_LIMIT_MS = 2_000;
const RETRY_MS = 200;

async function connectTo(vmm: VmmProcess, port: number): Promise<RawConnection> {
  const connection = await RawConnection.open(join(vmm.dir, "vsock.sock"));
  connection.send(`CONNECT ${port}\n`);
  return connection;
}

async function expectSilence(vmm: VmmProcess): Promise<void> {
  const connection = await connectTo(vmm, NOBODY_LISTENS);
  await connection.until((received) => received !== "", SILENCE_MS);
  assert.deepEqual([connection.received, connection.isClosed], ["", false]);
  connection.socket.destroy();
}

/**
 * Opens a new connection each time: one from before the guest's driver never gets an answer.
 * Returns the last one if none is as wanted within the guest's time to boot.
 */
async function untilIs(
  wanted: (connection: RawConnection) => boolean,
  stage: Stage,
  vmm: VmmProcess,
  port: number,
): Promise<RawConnection> {
  const deadline = performance.now() + stage.target.guestBootLimitMs;
  for (;;) {
    const connection = await connectTo(vmm, port);
    await connection.until((received) => received.includes("\n"), ATTEMPT_LIMIT_MS);
    if (wanted(connection) || performance.now() >= deadline) return connection;
    connection.socket.destroy();
    await pause(RETRY_MS);
  }
}

const isAnswered = ({ received, isClosed }: RawConnection) => received !== "" || isClosed;
/** The driver closes connections to its ports until the guest's program listens. */
const isOpen = ({ received, isClosed }: RawConnection) => received !== "" && !isClosed;

export const vsockCases: Case[] = [
  vmCase(
    "11.4",
    "CONNECT before the guest's driver is up: no answer and no close",
    async (stage) => {
      const vmm = await stage.created();
      await stage.target.setFaults?.(vmm.dir, [{ kind: "slow-boot", ms: 60_000 }]);
      expectStatus(await vmm.put("vm.boot"), 204);
      await expectSilence(vmm);
    },
  ),
  vmCase(
    "4",
    "CONNECT while the VM is restored and paused: no answer and no close",
    async (stage) => {
      const vmm = await stage.restorable();
      expectStatus(await vmm.put("vm.restore", RESTORE), 204);
      await expectSilence(vmm);
    },
  ),
  vmCase(
    "4",
    "CONNECT to a port that nobody listens on is closed without a word",
    async (stage) => {
      const vmm = await stage.running();
      const connection = await untilIs(isAnswered, stage, vmm, NOBODY_LISTENS);
      if (!isAnswered(connection))
        return `the guest's vsock driver was not up within ${stage.target.guestBootLimitMs} ms`;
      assert.deepEqual([connection.received, connection.isClosed], ["", true]);
      return undefined;
    },
  ),
  vmCase(
    "4",
    "CONNECT to a port that something listens on is answered with OK and a port, after a boot and after a restore",
    async (stage) => {
      const { guestPort } = stage.target;
      if (guestPort === undefined)
        return "no port is known that something in this guest listens on (--guest-port)";
      const booted = await stage.running("booted", stage.wholeGuest());
      const restored = await stage.restorable(stage.wholeGuest());
      expectStatus(await restored.put("vm.restore", { ...RESTORE, resume: true }), 204);
      for (const vmm of [booted, restored]) {
        const connection = await untilIs(isOpen, stage, vmm, guestPort);
        assert.match(connection.received, /^OK \d+\n/);
        assert.equal(connection.isClosed, false);
        connection.socket.destroy();
      }
      return undefined;
    },
  ),
];
