/**
 * Where sandboxes are placed: labels, anti-affinity, sizes, and the dry run that predicts the
 * choice; on three different hosts.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { startTestFleet, type TestFleet, until } from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

/** Time after which every scheduler has read the hosts again (placer.ts). */
const NEW_PICTURE_MS = 200;

let fleet: TestFleet;
let sql: postgres.Sql;
beforeAll(async () => {
  fleet = await startTestFleet({
    hosts: 3,
    hostEnv: { CAPACITY_MEMORY_MIB: "256" },
    hostEnvs: {
      "host-1": { HOST_LABELS: "zone=a,gpu=t4" },
      "host-2": { HOST_LABELS: "zone=b,gpu=a100,rack=r-1" },
      "host-3": { HOST_LABELS: "zone=b" },
    },
  });
  sql = postgres(fleet.fleet.state.databaseUrl, { max: 2, onnotice: () => {} });
});
afterAll(async () => {
  await sql.end();
  await fleet[Symbol.asyncDispose]();
});
afterEach(async () => {
  const { body } = await fleet.call("GET", "/v1/sandboxes");
  for (const { id } of body["data"] as { id: string }[])
    await fleet.call("DELETE", `/v1/sandboxes/${id}`);
  // A tombstone reserves its capacity until its host has confirmed the clean-up. Without the wait,
  // the next test would see one host fuller than another.
  await until(
    "the clean-up is done",
    async () => (await sql`SELECT id FROM sandboxes WHERE state <> 'deleted'`).length === 0,
  );
  await sleep(NEW_PICTURE_MS);
});

const create = (placement: unknown, prefer = "wait=30") =>
  fleet.call("POST", "/v1/sandboxes", {
    body: { template_name: "code-interpreter", placement },
    headers: { prefer },
  });
const dryRun = (body: object) => fleet.call("POST", "/v1/placements/dry-run", { body });
const transition = (id: unknown, verb: string, prefer = "wait=30") =>
  fleet.call("POST", `/v1/sandboxes/${String(id)}/${verb}`, { headers: { prefer } });
const shown = async (id: unknown) => (await fleet.call("GET", `/v1/sandboxes/${String(id)}`)).body;

test("hosts show the labels that they were given", async () => {
  const { body } = await fleet.call("GET", "/v1/hosts");
  const labels = (body["data"] as { id: string; labels: object }[]).map((host) => [
    host.id,
    host.labels,
  ]);
  expect(labels).toEqual([
    ["host-1", { zone: "a", gpu: "t4" }],
    ["host-2", { zone: "b", gpu: "a100", rack: "r-1" }],
    ["host-3", { zone: "b" }],
  ]);
});

test("a sandbox runs where its labels are, is shown with them, and comes back there", async () => {
  const placement = { labels: { zone: "b", gpu: "a100" } };
  const created = await create(placement);
  expect(created).toMatchObject({ status: 201, body: { node_id: "host-2", placement } });
  const { id } = created.body;
  for (const verb of ["pause", "resume", "stop", "start"])
    expect((await transition(id, verb)).status, verb).toBe(200);
  expect(await shown(id)).toMatchObject({ node_id: "host-2", placement });
  const listed = await fleet.call("GET", "/v1/sandboxes");
  expect(listed.body["data"]).toMatchObject([{ placement }]);
});

test("a sandbox that asks for nothing is shown without a placement", async () => {
  for (const placement of [undefined, null, {}, { labels: {} }]) {
    const created = await create(placement);
    expect(created.status, JSON.stringify(created.body)).toBe(201);
    expect(created.body).not.toHaveProperty("placement");
    await fleet.call("DELETE", `/v1/sandboxes/${String(created.body["id"])}`);
  }
});

test("a resume elsewhere keeps to the labels: the host that has them too, or none", async () => {
  const [both, alone] = [
    await create({ labels: { zone: "b" } }),
    await create({ labels: { gpu: "t4" } }),
  ];
  const home = String(both.body["node_id"]);
  const other = home === "host-2" ? "host-3" : "host-2";
  for (const { body } of [both, alone])
    expect((await transition(body["id"], "pause")).status).toBe(200);
  for (const hostId of [home, "host-1"])
    expect((await fleet.call("POST", `/v1/hosts/${hostId}/cordon`)).status).toBe(200);
  try {
    expect((await dryRun({ sandbox_id: both.body["id"] })).body).toMatchObject({
      host_id: other,
      candidate_count: 1,
    });
    expect((await transition(both.body["id"], "resume")).status).toBe(200);
    expect(await shown(both.body["id"])).toMatchObject({ node_id: other });
    const refused = await transition(alone.body["id"], "resume", "wait=8");
    expect(refused).toMatchObject({
      status: 429,
      body: { code: "RESOURCE_LIMIT_ERROR", details: { hosts: 3 } },
    });
    expect(refused.body).toMatchObject({ details: { reasons: { labels: 1, host_not_ready: 2 } } });
    expect(await shown(alone.body["id"])).toMatchObject({ status: "paused" });
  } finally {
    for (const hostId of [home, "host-1"]) await fleet.call("POST", `/v1/hosts/${hostId}/uncordon`);
  }
});

test("S50: sandboxes of one anti-affinity key are on hosts of their own; one too many is a 429 that says so, and the operation too", async () => {
  const made = await Promise.all(Array.from({ length: 3 }, () => create({ anti_affinity: "web" })));
  expect(made.map(({ body }) => String(body["node_id"])).toSorted()).toEqual([
    "host-1",
    "host-2",
    "host-3",
  ]);
  expect(made[0]?.body).toMatchObject({ placement: { anti_affinity: "web" } });
  expect(
    (await dryRun({ template_name: "code-interpreter", placement: { anti_affinity: "web" } })).body,
  ).toMatchObject({
    host_id: null,
    score: null,
    candidates: [],
    reasons: { anti_affinity: 3 },
    message: "None of 3 hosts can take it: 3 have a sandbox of the same anti-affinity key.",
  });
  const refused = await create({ anti_affinity: "web" }, "wait=8");
  expect(refused).toMatchObject({
    status: 429,
    body: { code: "RESOURCE_LIMIT_ERROR", details: { reasons: { anti_affinity: 3 } } },
  });
  expect(String(refused.body["message"])).toMatch(/3 have a sandbox of the same anti-affinity key/);
  const { operation_id: operationId } = refused.body["details"] as { operation_id: string };
  const operation = await fleet.call("GET", `/v1/operations/${operationId}`);
  expect(operation.body).toMatchObject({
    status: "failed",
    explain: { hosts: 3, reasons: { anti_affinity: 3 } },
  });
  expect((await create({ anti_affinity: "db" })).status).toBe(201);
});

test("S51: the last host with a sandbox's labels, or without another of its key, is not drained, and the answer says why as placement does", async () => {
  const labelled = await create({ labels: { gpu: "t4" } });
  const drain = () => fleet.call("POST", "/v1/hosts/host-1/drain", { body: { max_parallel: 1 } });
  const refused = async () => {
    const { status, body } = await drain();
    expect(body).toMatchObject({ code: "CONFLICT" });
    expect(status).toBe(409);
    return body;
  };
  const byLabels = { sandboxes: 1, hosts: 2, reasons: { labels: 2 } };
  expect(await refused()).toMatchObject({
    message: expect.stringMatching(/1 sandbox has nowhere to go.*2 have not the labels gpu=t4/),
    details: { stranded: [byLabels] },
  });
  expect((await transition(labelled.body["id"], "pause")).status).toBe(200);
  expect(await refused(), "paused too").toMatchObject({ details: { stranded: [byLabels] } });
  await fleet.call("DELETE", `/v1/sandboxes/${String(labelled.body["id"])}`);
  for (let count = 0; count < 3; count += 1)
    expect((await create({ anti_affinity: "web" })).status).toBe(201);
  expect(await refused()).toMatchObject({
    details: { stranded: [{ sandboxes: 1, hosts: 2, reasons: { anti_affinity: 2 } }] },
  });
  expect((await fleet.call("GET", "/v1/hosts/host-1")).body).toMatchObject({
    state: "ready",
    drain: null,
  });
});

describe("a dry run", () => {
  test("says where a create goes, from what, and leaves nothing behind", async () => {
    const body = {
      template_name: "code-interpreter",
      placement: { labels: { zone: "b" } },
      metadata: { a: "b" },
    };
    const answer = await dryRun(body);
    expect(answer).toMatchObject({
      status: 200,
      body: {
        object: "placement",
        policy: "local-first",
        hosts: 3,
        candidate_count: 2,
        reasons: { labels: 1 },
      },
    });
    expect(answer.body["candidates"]).toHaveLength(2);
    expect(answer.body["candidates"]).toMatchObject([
      { host_id: answer.body["host_id"], score: answer.body["score"], is_local: false },
      {},
    ]);
    const [left] =
      await sql`SELECT count(*)::int AS living FROM sandboxes WHERE state NOT IN ('deleting', 'deleted')`;
    expect(left?.["living"]).toBe(0);
    expect((await create(body.placement)).body["node_id"]).toBe(answer.body["host_id"]);
  });

  test("says where a paused or stopped sandbox would come back; one that runs is placed already", async () => {
    const { body } = await create({ labels: { gpu: "t4" } });
    const { id } = body;
    expect(await dryRun({ sandbox_id: id })).toMatchObject({
      status: 409,
      body: { code: "CONFLICT", details: { current_state: "running" } },
    });
    for (const verb of ["pause", "stop"]) {
      await transition(id, verb);
      const answer = await dryRun({ sandbox_id: id });
      expect(answer).toMatchObject({
        status: 200,
        body: { host_id: "host-1", candidates: [{ host_id: "host-1", is_local: true }] },
      });
    }
  });

  test("is a 503 while no scheduler answers, and an answer again afterwards", async () => {
    const ask = () => dryRun({ template_name: "code-interpreter" });
    for (const name of ["scheduler-1", "scheduler-2"]) await fleet.fleet.kill(name);
    const silent = await ask();
    expect(silent).toMatchObject({ status: 503, body: { code: "SERVICE_UNAVAILABLE" } });
    expect(silent.headers.get("retry-after")).toBe("1");
    for (const name of ["scheduler-1", "scheduler-2"]) await fleet.fleet.startComponent(name);
    await until("an answer again", async () => (await ask()).status === 200);
  });
});

describe("what no host could ever take is refused at once, with what there is; nothing is written", () => {
  const refusals: [string, object, string, RegExp][] = [
    [
      "a label that no host has",
      { placement: { labels: { disk: "ssd" } } },
      "placement.labels.disk",
      /no host of region local has\. There are the labels gpu, rack, zone/,
    ],
    [
      "a value that no host has",
      { placement: { labels: { gpu: "h100" } } },
      "placement.labels.gpu",
      /'h100', which no host of region local has\. There is gpu=a100, t4/,
    ],
    [
      "labels that no host has together",
      { placement: { labels: { zone: "b", gpu: "t4" } } },
      "placement.labels",
      /on different hosts/,
    ],
    [
      "an unknown region",
      { region: "moon", placement: { labels: { zone: "a" } } },
      "region",
      /local/,
    ],
    [
      "a label with a bad name",
      { placement: { labels: { "a b": "c" } } },
      "placement.labels.a b",
      /not an allowed name/,
    ],
    [
      "a label with a bad value",
      { placement: { labels: { zone: "a,b" } } },
      "placement.labels.zone",
      /pattern/,
    ],
    [
      "a label that is no text",
      { placement: { labels: { zone: 1 } } },
      "placement.labels.zone",
      /string/,
    ],
    [
      "more labels than may be",
      {
        placement: {
          labels: Object.fromEntries(Array.from({ length: 17 }, (_, at) => [`n${at}`, "x"])),
        },
      },
      "placement.labels",
      /16/,
    ],
    [
      "an anti-affinity key that is none",
      { placement: { anti_affinity: "" } },
      "placement.anti_affinity",
      /pattern/,
    ],
    ["a placement that is no object", { placement: "host-1" }, "placement", /object/],
  ];
  test.each(refusals)("%s, of a create and of a dry run alike", async (_, extra, field, says) => {
    const [before] = await sql`SELECT count(*)::int AS rows FROM sandboxes`;
    for (const path of ["/v1/sandboxes", "/v1/placements/dry-run"]) {
      const answer = await fleet.call("POST", path, {
        body: { template_name: "code-interpreter", ...extra },
      });
      expect(answer, JSON.stringify(answer.body)).toMatchObject({
        status: 400,
        body: { code: "INVALID_REQUEST" },
      });
      expect(
        (answer.body["details"] as { fields: { field: string }[] }).fields.map((one) => one.field),
      ).toEqual([field]);
      expect(String(answer.body["message"])).toMatch(says);
    }
    const [after] = await sql`SELECT count(*)::int AS rows FROM sandboxes`;
    expect(after).toEqual(before);
  });

  test("a size that is larger than any host", async () => {
    await sql`UPDATE templates SET memory_mib = 257`;
    try {
      const answer = await create(undefined);
      expect(answer).toMatchObject({
        status: 400,
        body: { code: "INVALID_REQUEST", details: { fields: [{ field: "template_name" }] } },
      });
      expect(String(answer.body["message"])).toMatch(
        /257 MiB of memory.*more than any host has in all.*256 MiB of memory.*smaller template/,
      );
    } finally {
      await sql`UPDATE templates SET memory_mib = 64`;
    }
  });

  test("a template is what an operator says: it goes to hosts that hold its image, and to no others", async () => {
    const [{ image_sha256: image }] = (await fleet.call("GET", "/v1/templates")).body["data"] as [
      { image_sha256: string },
    ];
    const size = { vcpu: 1, memory_mb: 64, disk_mb: 16 };
    const other = { name: "other", image_sha256: "b".repeat(64), default_resources: size };
    expect(await fleet.call("POST", "/v1/templates", { body: other })).toMatchObject({
      status: 201,
      body: { id: "other", display_name: "other" },
    });
    expect(await fleet.call("POST", "/v1/templates", { body: other })).toMatchObject({
      status: 409,
      body: { code: "CONFLICT" },
    });
    const unplaceable = await dryRun({ template_name: "other" });
    expect(unplaceable.body).toMatchObject({ candidates: [], reasons: { image_missing: 3 } });
    expect(unplaceable.body["message"]).toMatch(/3 do not have its image bbbbbbbbbbbb/);
    const change = { image_sha256: image, default_resources: { memory_mb: 65 } };
    const changed = await fleet.call("PATCH", "/v1/templates/other", { body: change });
    expect(changed).toMatchObject({
      status: 200,
      body: { image_sha256: image, default_resources: { vcpu: 1, memory_mb: 65 } },
    });
    const created = await fleet.call("POST", "/v1/sandboxes", { body: { template_name: "other" } });
    expect(created).toMatchObject({
      status: 201,
      body: { template_name: "other", status: "running" },
    });
    const { body } = await fleet.call("GET", "/v1/hosts/host-1");
    expect(body).toMatchObject({ templates: ["code-interpreter", "other"], image_findings: [] });
    expect(await fleet.call("DELETE", "/v1/templates/other")).toMatchObject({
      status: 200,
      body: { deleted: true },
    });
    expect(await dryRun({ template_name: "other" })).toMatchObject({ status: 404 });
    expect(await transition(created.body["id"], "stop")).toMatchObject({ status: 200 });
    expect(await transition(created.body["id"], "start")).toMatchObject({ status: 200 });
  });

  test.each([
    ["nothing", {}, 400, "MISSING_PARAMETER"],
    ["an unknown template", { template_name: "nope" }, 404, "TEMPLATE_NOT_FOUND"],
    ["an unknown sandbox", { sandbox_id: "1795490791hbb922t4" }, 404, "SANDBOX_NOT_FOUND"],
    ["a sandbox id that is none", { sandbox_id: 7 }, 400, "INVALID_REQUEST"],
  ])("a dry run of %s", async (_, body, status, code) => {
    expect(await dryRun(body)).toMatchObject({ status, body: { code } });
  });
});
