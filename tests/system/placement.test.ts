/**
 * Where sandboxes are placed: labels, anti-affinity, sizes, and the dry run that predicts the
 * choice; on three different hosts.
 */
import { setTimeout as sleep } from "node:timers/promises";
import {
  type CreateSandboxBody,
  startTestFleet,
  type TestFleet,
  undefinedIfRefused,
  until,
} from "@torpor/testkit";
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
  await fleet.deleteSandboxes();
  // A tombstone reserves its capacity until its host has confirmed the clean-up. Without the wait,
  // the next test would see one host fuller than another.
  await until(
    "the clean-up is done",
    async () => (await sql`SELECT id FROM sandboxes WHERE state <> 'deleted'`).length === 0,
  );
  await sleep(NEW_PICTURE_MS);
});

const create = (placement: CreateSandboxBody["placement"], waitSeconds = 30) =>
  fleet.createSandbox(placement === undefined ? {} : { placement }, { waitSeconds });
const WAITS = { waitSeconds: 30 };

test("hosts show the labels that they were given", async () => {
  const labels = (await fleet.hosts()).map((host) => [host.id, host.labels]);
  expect(labels).toEqual([
    ["host-1", { zone: "a", gpu: "t4" }],
    ["host-2", { zone: "b", gpu: "a100", rack: "r-1" }],
    ["host-3", { zone: "b" }],
  ]);
});

test("a sandbox runs where its labels are, is shown with them, and comes back there", async () => {
  const { sandboxes } = fleet.client;
  const placement = { labels: { zone: "b", gpu: "a100" } };
  const created = await create(placement);
  expect(created).toMatchObject({ node_id: "host-2", placement });
  const { id } = created;
  for (const verb of ["pause", "resume", "stop", "start"] as const)
    await sandboxes[verb](id, WAITS);
  expect(await sandboxes.get(id)).toMatchObject({ node_id: "host-2", placement });
  expect(await Array.fromAsync(sandboxes.list())).toMatchObject([{ placement }]);
});

test("a sandbox that asks for nothing is shown without a placement", async () => {
  for (const placement of [undefined, null, {}, { labels: {} }]) {
    const created = await create(placement);
    expect(created).not.toHaveProperty("placement");
    await fleet.client.sandboxes.delete(created.id);
  }
});

test("a resume elsewhere keeps to the labels: the host that has them too, or none", async () => {
  const { sandboxes, hosts } = fleet.client;
  const [both, alone] = [
    await create({ labels: { zone: "b" } }),
    await create({ labels: { gpu: "t4" } }),
  ];
  const { node_id: home = "" } = both;
  const other = home === "host-2" ? "host-3" : "host-2";
  for (const { id } of [both, alone]) await sandboxes.pause(id, WAITS);
  for (const hostId of [home, "host-1"]) await hosts.cordon(hostId);
  try {
    expect(await sandboxes.dryRun({ sandbox_id: both.id })).toMatchObject({
      host_id: other,
      candidate_count: 1,
    });
    await sandboxes.resume(both.id, WAITS);
    expect(await sandboxes.get(both.id)).toMatchObject({ node_id: other });
    await expect(sandboxes.resume(alone.id, { waitSeconds: 8 })).rejects.toMatchObject({
      status: 429,
      code: "RESOURCE_LIMIT_ERROR",
      details: { hosts: 3, reasons: { labels: 1, host_not_ready: 2 } },
    });
    expect(await sandboxes.get(alone.id)).toMatchObject({ status: "paused" });
  } finally {
    for (const hostId of [home, "host-1"]) await hosts.uncordon(hostId);
  }
});

test("S50: sandboxes of one anti-affinity key are on hosts of their own; one too many is a 429 that says so, and the operation too", async () => {
  const { sandboxes } = fleet.client;
  const web = { anti_affinity: "web" };
  const made = await Promise.all(Array.from({ length: 3 }, () => create(web)));
  expect(made.map(({ node_id }) => String(node_id)).toSorted()).toEqual([
    "host-1",
    "host-2",
    "host-3",
  ]);
  expect(made[0]).toMatchObject({ placement: web });
  expect(
    await sandboxes.dryRun({ template_name: "code-interpreter", placement: web }),
  ).toMatchObject({
    host_id: null,
    score: null,
    candidates: [],
    reasons: { anti_affinity: 3 },
    message: "None of 3 hosts can take it: 3 have a sandbox of the same anti-affinity key.",
  });
  const refused = await fleet.call("POST", "/v1/sandboxes", {
    body: { template_name: "code-interpreter", placement: web },
    headers: { prefer: "wait=8" },
  });
  expect(refused).toMatchObject({
    status: 429,
    body: {
      code: "RESOURCE_LIMIT_ERROR",
      message: expect.stringMatching(/3 have a sandbox of the same anti-affinity key/),
      details: { reasons: { anti_affinity: 3 } },
    },
  });
  const { details } = refused.body as { details: { operation_id: string } };
  expect(await fleet.client.operations.get(details.operation_id)).toMatchObject({
    status: "failed",
    explain: { hosts: 3, reasons: { anti_affinity: 3 } },
  });
  await create({ anti_affinity: "db" });
});

test("S51: the last host with a sandbox's labels, or without another of its key, is not drained, and the answer says why as placement does", async () => {
  const { sandboxes, hosts } = fleet.client;
  const labelled = await create({ labels: { gpu: "t4" } });
  const isRefused = async (expected: object, what?: string) =>
    await expect(hosts.drain("host-1", { max_parallel: 1 }), what).rejects.toMatchObject({
      status: 409,
      code: "CONFLICT",
      ...expected,
    });
  const byLabels = { sandboxes: 1, hosts: 2, reasons: { labels: 2 } };
  await isRefused({
    message: expect.stringMatching(/1 sandbox has nowhere to go.*2 have not the labels gpu=t4/),
    details: { stranded: [byLabels] },
  });
  await sandboxes.pause(labelled.id, WAITS);
  await isRefused({ details: { stranded: [byLabels] } }, "paused too");
  await sandboxes.delete(labelled.id);
  for (let count = 0; count < 3; count += 1) await create({ anti_affinity: "web" });
  await isRefused({
    details: { stranded: [{ sandboxes: 1, hosts: 2, reasons: { anti_affinity: 2 } }] },
  });
  expect(await hosts.get("host-1")).toMatchObject({ state: "ready", drain: null });
});

describe("a dry run", () => {
  test("says where a create goes, from what, and leaves nothing behind", async () => {
    const body = {
      template_name: "code-interpreter",
      placement: { labels: { zone: "b" } },
      metadata: { a: "b" },
    };
    const answer = await fleet.client.sandboxes.dryRun(body);
    expect(answer).toMatchObject({
      object: "placement",
      policy: "local-first",
      hosts: 3,
      candidate_count: 2,
      reasons: { labels: 1 },
    });
    expect(answer.candidates).toHaveLength(2);
    expect(answer.candidates).toMatchObject([
      { host_id: answer.host_id, score: answer.score, is_local: false },
      {},
    ]);
    const [left] =
      await sql`SELECT count(*)::int AS living FROM sandboxes WHERE state NOT IN ('deleting', 'deleted')`;
    expect(left?.["living"]).toBe(0);
    expect((await create(body.placement)).node_id).toBe(answer.host_id);
  });

  test("says where a paused or stopped sandbox would come back; one that runs is placed already", async () => {
    const { sandboxes } = fleet.client;
    const { id } = await create({ labels: { gpu: "t4" } });
    await expect(sandboxes.dryRun({ sandbox_id: id })).rejects.toMatchObject({
      status: 409,
      code: "CONFLICT",
      details: { current_state: "running" },
    });
    for (const verb of ["pause", "stop"] as const) {
      await sandboxes[verb](id, WAITS);
      expect(await sandboxes.dryRun({ sandbox_id: id })).toMatchObject({
        host_id: "host-1",
        candidates: [{ host_id: "host-1", is_local: true }],
      });
    }
  });

  test("is a 503 while no scheduler answers, and an answer again afterwards", async () => {
    const ask = () => fleet.client.sandboxes.dryRun({ template_name: "code-interpreter" });
    for (const name of ["scheduler-1", "scheduler-2"]) await fleet.fleet.kill(name);
    await expect(ask()).rejects.toMatchObject({
      status: 503,
      code: "SERVICE_UNAVAILABLE",
      retryAfterSeconds: 1,
    });
    for (const name of ["scheduler-1", "scheduler-2"]) await fleet.fleet.startComponent(name);
    await until("an answer again", () => ask().catch(undefinedIfRefused));
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
      await expect(create(undefined)).rejects.toMatchObject({
        status: 400,
        code: "INVALID_REQUEST",
        message: expect.stringMatching(
          /257 MiB of memory.*more than any host has in all.*256 MiB of memory.*smaller template/,
        ),
        details: { fields: [{ field: "template_name" }] },
      });
    } finally {
      await sql`UPDATE templates SET memory_mib = 64`;
    }
  });

  test("a template is what an operator says: it goes to hosts that hold its image, and to no others", async () => {
    const { sandboxes, templates, hosts } = fleet.client;
    const { image_sha256: image = "" } = await templates.get("code-interpreter");
    const size = { vcpu: 1, memory_mb: 64, disk_mb: 16 };
    const other = { name: "other", image_sha256: "b".repeat(64), default_resources: size };
    expect(await fleet.call("POST", "/v1/templates", { body: other })).toMatchObject({
      status: 201,
      body: { id: "other", display_name: "other" },
    });
    await expect(templates.create(other)).rejects.toMatchObject({ status: 409, code: "CONFLICT" });
    const unplaceable = await sandboxes.dryRun({ template_name: "other" });
    expect(unplaceable).toMatchObject({ candidates: [], reasons: { image_missing: 3 } });
    expect(unplaceable.message).toMatch(/3 do not have its image bbbbbbbbbbbb/);
    const change = { image_sha256: image, default_resources: { memory_mb: 65 } };
    expect(await templates.update("other", change)).toMatchObject({
      image_sha256: image,
      default_resources: { vcpu: 1, memory_mb: 65 },
    });
    const created = await sandboxes.create({ template_name: "other" });
    expect(created).toMatchObject({ template_name: "other", status: "running" });
    expect(await hosts.get("host-1")).toMatchObject({
      templates: ["code-interpreter", "other"],
      image_findings: [],
    });
    expect(await templates.delete("other")).toMatchObject({ deleted: true });
    const gone = sandboxes.dryRun({ template_name: "other" });
    await expect(gone).rejects.toMatchObject({ status: 404 });
    await sandboxes.stop(created.id, WAITS);
    await sandboxes.start(created.id, WAITS);
  });

  test.each([
    ["nothing", {}, 400, "MISSING_PARAMETER"],
    ["an unknown template", { template_name: "nope" }, 404, "TEMPLATE_NOT_FOUND"],
    ["an unknown sandbox", { sandbox_id: "1795490791hbb922t4" }, 404, "SANDBOX_NOT_FOUND"],
    ["a sandbox id that is none", { sandbox_id: 7 }, 400, "INVALID_REQUEST"],
  ])("a dry run of %s", async (_, body, status, code) => {
    expect(await fleet.call("POST", "/v1/placements/dry-run", { body })).toMatchObject({
      status,
      body: { code },
    });
  });
});
