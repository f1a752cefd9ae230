/** Observations on a bus that currently accepts no more from this host: none is lost. */
import { type Bus, connectBus, ensureStreams } from "@torpor/bus";
import { type HostId, type Observation, type SandboxId, STREAMS } from "@torpor/contracts";
import { anObservation, type NatsServer, silentLog, startNats, until } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Reporter } from "../src/control/reporter.ts";

const HOST = "host-1" as HostId;
const MOST = STREAMS.OBSERVATIONS.maxMessagesPerSubject;

let server: NatsServer;
let control: Bus;
let host: Bus;
beforeAll(async () => {
  server = await startNats([HOST]);
  control = await connectBus({ ...server.as(), name: "control" });
  await ensureStreams(control);
  host = await connectBus({ ...server.as(HOST), name: HOST, hostId: HOST });
});
afterAll(async () => {
  await host.close();
  await control.close();
  await server[Symbol.asyncDispose]();
});

test("what is over a host's share of the stream is kept, and published in its order when there is room", async () => {
  const stopped = new AbortController();
  const reporter = new Reporter(silentLog());
  const running = reporter.run(host, stopped.signal);
  const { streams } = await control.manager();
  const waiting = async () => (await streams.info("OBSERVATIONS")).state.messages;
  const sandboxId = "1763309903aaaaaaaa" as SandboxId;
  const all = Array.from({ length: 2 * MOST + 1 }, (_, at) => at + 1);
  for (const revision of all)
    reporter.report(anObservation({ hostId: HOST, sandboxId, state: "running", revision }));
  await until("some wait", () => reporter.backlog().count === all.length - MOST);
  expect(reporter.backlog().oldestAtMs).toBeLessThanOrEqual(Date.now());
  const arrived: number[] = [];
  for (let sequence = 1; sequence <= all.length; sequence += 1) {
    await until(
      "it is stored",
      async () => (await streams.info("OBSERVATIONS")).state.last_seq >= sequence,
    );
    expect(await waiting()).toBeLessThanOrEqual(MOST);
    const message = await streams.getMessage("OBSERVATIONS", { seq: sequence });
    arrived.push((message?.json<Observation>() ?? { revision: 0 }).revision);
    await streams.deleteMessage("OBSERVATIONS", sequence, false);
  }
  expect(arrived).toEqual(all);
  expect(await waiting()).toBe(0);
  await until("none waits", () => reporter.backlog().oldestAtMs === undefined);
  stopped.abort();
  await running;
});
