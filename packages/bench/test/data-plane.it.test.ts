/** The loads of the data plane's benchmark; the benchmark and the soak on a real fleet. */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { claimPort } from "@torpor/service";
import { until } from "@torpor/testkit";
import { expect, onTestFinished, test } from "vitest";
import { downloadLoad, echoLoad, requestLoad, uploadLoad } from "../src/data-plane/loads.ts";
import { getFrom } from "../src/data-plane/ways.ts";
import { measureDataPlane } from "../src/data-plane.ts";
import { Tally } from "../src/load/tally.ts";
import { edgeRows } from "../src/report/edge.ts";
import { measureSoak } from "../src/soak.ts";
import { place } from "./support/place.ts";

const LIMIT_MS = 300_000;
const APPLICATION = fileURLToPath(new URL("../src/data-plane/application.ts", import.meta.url));

test("every load counts what has come or was taken, and ends when it is stopped", async () => {
  const { port } = await claimPort();
  const application = spawn(process.execPath, [APPLICATION, String(port)], { stdio: "inherit" });
  onTestFinished(() => void application.kill());
  const way = { port, headers: {} };
  const isUp = async () => (await getFrom(way, "/").catch(() => undefined))?.status === 200;
  await until("the application answers", isUp);
  for (const load of [requestLoad(way, 2), downloadLoad(way), uploadLoad(way), echoLoad(way)]) {
    const [tally, stop] = [new Tally(), new AbortController()];
    tally.open();
    const running = load.run(tally, stop.signal);
    await until("something has come", async () => tally.done > 3);
    stop.abort();
    await running;
    await load.close();
    expect(tally.failedBy()).toEqual({});
  }
});

test("what does not answer is counted as failed", async () => {
  const { port } = await claimPort();
  const [tally, stop] = [new Tally(), new AbortController()];
  const running = downloadLoad({ port, headers: {} }).run(tally, stop.signal);
  await until("it has failed", async () => Object.keys(tally.failedBy()).length > 0);
  stop.abort();
  await running;
  expect(Object.keys(tally.failedBy())).toEqual([expect.stringMatching(/^stream: .*ECONNREFUSED/)]);
});

test(
  "the same server is measured both ways, and every part of the way has its processor time",
  { tags: ["exhaustive"], timeout: LIMIT_MS },
  async () => {
    await using at = await place();
    const timing = { seconds: 1, warmSeconds: 0.5, countSeconds: 0 };
    const { signal } = new AbortController();
    const options = { ...at, ...timing, clients: [2], signal, say: () => {} };
    const { steps } = await measureDataPlane(options);
    expect(edgeRows(steps).rows.map(([kind]) => kind)).toEqual([
      "requests-2",
      "download",
      "upload",
      "websocket",
    ]);
    for (const step of steps) {
      expect(step.failed, step.name).toEqual({});
      expect(step.count, step.name).toBeGreaterThan(0);
      for (const part of ["gateway", "node-agent", "guest", "application", "load"])
        expect(step.cpuPercent[part], `${step.name}: ${part}`).toBeGreaterThanOrEqual(0);
    }
    const requests = steps.find(({ name }) => name === "edge-requests-2");
    expect(requests?.cpuPercent["gateway"]).toBeGreaterThan(0);
    expect(requests?.cpuPercent["guest"]).toBeGreaterThan(0);
  },
);

test(
  "a soak reads every number of every program, and its load fails nowhere",
  { tags: ["exhaustive"], timeout: LIMIT_MS },
  async () => {
    await using at = await place();
    const { signal } = new AbortController();
    const options = { ...at, minutes: 0.5, sampleSeconds: 2, signal, say: () => {} };
    const { series, failed, requests } = await measureSoak(options);
    expect(failed).toEqual({});
    expect(Object.keys(requests)).toEqual(
      expect.arrayContaining(["create", "edge", "list", "pause", "resume"]),
    );
    const named = series.map(({ of, what }) => `${of} ${what}`);
    for (const program of ["gateway-1", "scheduler-1", "host-1", "host-2"])
      for (const what of ["heap", "outside heap", "resident", "open files"])
        expect(named).toContain(`${program} ${what}`);
    for (const name of ["postgres private", "postgres connections", "postgres outbox waiting"])
      expect(named).toContain(name);
    expect(named).toContain("COMMANDS stream waiting");
  },
);
