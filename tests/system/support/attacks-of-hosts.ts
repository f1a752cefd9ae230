/**
 * Attacks of a host that was taken over, or lies: with its own keys, it publishes what it likes.
 */
import { HOST_API_PREFIX, inboxPrefixOf } from "@torpor/bus";
import { hostCommands, subjects, unverifiedSandboxId } from "@torpor/contracts";
import { aHost, anObservation, runCode, until } from "@torpor/testkit";
import type { HostAttack } from "./attacks.ts";
import { often } from "./often.ts";
import {
  assertThat,
  eventsOf,
  HONEST_HOST,
  HOSTILE_HOST,
  type Target,
  type Try,
} from "./target.ts";

const ANSWER_LIMIT_MS = 20_000;
const REPORTS_UNGIVEN = 300;
/** A little over the limit of 1,000: findings that are recorded at once do not count each other. */
const FINDINGS_KEPT = 1_050;

type Question = Parameters<typeof subjects.request>[1];

interface Reply {
  granted?: boolean;
  reason?: string;
  deleted?: string[];
  storeKeys?: string[];
}

async function ask({ host }: Target, question: Question, body: object): Promise<Reply> {
  const subject = subjects.request(HOSTILE_HOST, question);
  const options = { timeout: ANSWER_LIMIT_MS };
  const reply = await host.connection.request(subject, JSON.stringify(body), options);
  return reply.json();
}

/** Publishes a message without waiting for a reply. */
const say = (target: Target, subject: string, body: object, reply?: string) =>
  target.host.connection.publish(
    subject,
    JSON.stringify(body),
    ...(reply === undefined ? [] : [{ reply }]),
  );
const lease = (hostId: string) => ({ type: "lease", version: 1, hostId });
const report = (target: Target, body: object) =>
  say(target, subjects.observation(HOSTILE_HOST, "running"), body);
const seen = (id: string, given: object = {}) => ({
  ...anObservation({ hostId: HOSTILE_HOST, sandboxId: unverifiedSandboxId(id), state: "running" }),
  ...given,
});
const madeUp = (at: number) => `1763309903x${String(at).padStart(7, "0")}`;

async function streamsOf({ control }: Target): Promise<string[]> {
  const streams: string[] = [];
  for await (const { config, created } of (await control.manager()).streams.list())
    streams.push(`${config.name} ${created}`);
  return streams.toSorted();
}

/** Waits until all observations are handled. Throws when one was delivered twice. */
async function untilHandled({ control }: Target): Promise<void> {
  const { consumers } = await control.manager();
  const info = () => consumers.info("OBSERVATIONS", "scheduler-observations");
  await until("all are through", async () => (await info()).num_ack_pending === 0);
  const seen = await info();
  assertThat(seen.num_redelivered === 0, "some were delivered again", seen);
}

/** Throws when the neighbour's sandbox was ever stopped, failed or deleted. */
const isUntouched = async (target: Target) => {
  const facts = (await eventsOf(target, target.sandbox)).map(({ to }) => to);
  const strange = facts.filter((to) => to === "stopped" || to === "failed" || to === "deleted");
  assertThat(strange.length === 0, "the neighbour's sandbox went where nobody sent it", facts);
};

export const ON_HOSTS: Record<HostAttack, Try> = {
  replies: async (target) => {
    const before = await streamsOf(target);
    const { stream, durable } = hostCommands(HOSTILE_HOST);
    const next = `${HOST_API_PREFIX}.CONSUMER.MSG.NEXT.${stream}.${durable}`;
    const deletes = ["EVENTS", "COMMANDS", "INTENTS", "OBSERVATIONS"].map(
      (name) => `$JS.API.STREAM.DELETE.${name}`,
    );
    return {
      during: (signal) =>
        often(50, signal, async (at) => {
          const reply = deletes[at % deletes.length];
          say(target, next, { batch: 1, no_wait: true }, reply);
          say(target, subjects.request(HOSTILE_HOST, "lease"), lease(HOSTILE_HOST), reply);
          say(
            target,
            subjects.request(HOSTILE_HOST, "lease"),
            lease(HOSTILE_HOST),
            subjects.command(HONEST_HOST, "delete"),
          );
        }),
      check: async () => {
        const after = await streamsOf(target);
        assertThat(String(after) === String(before), "streams were touched", { before, after });
      },
    };
  },

  others: async (target) => {
    const { id } = target.sandbox;
    const stopped = { ...seen(id), hostId: HONEST_HOST, state: "stopped", revision: 1_000_000 };
    return {
      during: (signal) =>
        often(100, signal, async () => {
          say(target, subjects.observation(HONEST_HOST, "stopped"), stopped);
          say(target, subjects.observation(HOSTILE_HOST, "stopped"), stopped);
          say(target, subjects.request(HONEST_HOST, "lease"), lease(HONEST_HOST));
          say(target, subjects.request(HOSTILE_HOST, "lease"), lease(HONEST_HOST));
          say(target, subjects.heartbeat(HONEST_HOST), {
            type: "heartbeat",
            version: 1,
            hostId: HONEST_HOST,
          });
        }),
      check: () => isUntouched(target),
    };
  },

  registrations: async (target) => {
    const addresses = ["not a url", "http://10.0.0.5:94011", "file:///etc/passwd"];
    return {
      during: (signal) =>
        often(20, signal, async (at) => {
          const dataPlaneUrl = addresses[at % addresses.length] ?? "";
          const answer = await ask(target, "register", aHost(HOSTILE_HOST, { dataPlaneUrl }));
          assertThat(answer.granted === false, `${dataPlaneUrl} was taken`, answer);
          assertThat(/dataPlaneUrl/.test(answer.reason ?? ""), "it was not said why", answer);
        }),
      check: async () => {
        const other = await target.create();
        await runCode(other, "x = 1");
        await target.fleet.client.sandboxes.delete(other.id);
      },
    };
  },

  templates: async (target) => {
    const { fleet } = target;
    const templates = () => fleet.client.templates.list();
    const before = await templates();
    const [row] =
      await target.sql`SELECT data_plane_url, region FROM hosts WHERE id = ${HOSTILE_HOST}`;
    const [image] = aHost(HOSTILE_HOST).images;
    if (image === undefined) throw new Error("a host of tests has an image");
    const images = [{ ...image, sha256: "e".repeat(64), displayName: "Theirs" }];
    const [dataPlaneUrl, region] = [String(row?.["data_plane_url"]), String(row?.["region"])];
    return {
      during: (signal) =>
        often(10, signal, async () => {
          const offer = aHost(HOSTILE_HOST, { dataPlaneUrl, region, images });
          const answer = await ask(target, "register", offer);
          assertThat(answer.granted === true, "it was not taken at all", answer);
        }),
      check: async () => {
        const after = await templates();
        const isSame = JSON.stringify(after) === JSON.stringify(before);
        assertThat(isSame, "templates were rewritten", { before, after });
      },
    };
  },

  bounds: async (target) => {
    const id = madeUp(0);
    const bodies = [
      seen(id, { epoch: 2 ** 40 }),
      seen(id, { revision: 2 ** 31 }),
      seen(id, { cause: { code: "\u0000", message: "x" } }),
      seen(id, { cause: { code: "\ud800", message: "x" } }),
      { hello: "world" },
    ];
    return {
      during: (signal) =>
        often(100, signal, async (at) => report(target, bodies[at % bodies.length] ?? {})),
      check: () => untilHandled(target),
    };
  },

  ungiven: async (target) => {
    const { sql } = target;
    const own: string = target.ownOfHost.id;
    const ids: string[] = [target.sandbox.id, own];
    const row = async () =>
      JSON.stringify(await sql`SELECT state, epoch, op_seq FROM sandboxes WHERE id = ${own}`);
    const before = await row();
    let reported = 0;
    const reportOne = async () => {
      reported += 1;
      const numbers =
        reported % 4 < 2 ? { epoch: 1_000 + reported } : { opSeq: 1_000_000 + reported };
      const id = ids[reported % 2] ?? own;
      report(target, seen(id, { ...numbers, revision: 1_000 + reported, state: "stopped" }));
    };
    return {
      during: (signal) =>
        often(100, signal, async () => {
          if (reported < REPORTS_UNGIVEN) await reportOne();
        }),
      check: async () => {
        while (reported < REPORTS_UNGIVEN) await reportOne();
        await until("of its own sandbox it is a finding", async () => {
          await reportOne();
          return (await sql`SELECT 1 FROM host_findings WHERE sandbox_id = ${own}`).length > 0;
        });
        await untilHandled(target);
        const after = await row();
        assertThat(after === before, "something was applied", { before, after });
        await isUntouched(target);
      },
    };
  },

  questions: async (target) => {
    const reply = `${inboxPrefixOf(HOSTILE_HOST)}.flood`;
    return {
      during: (signal) =>
        often(500, signal, async () =>
          say(target, subjects.request(HOSTILE_HOST, "lease"), lease(HOSTILE_HOST), reply),
        ),
      check: async () => {
        const host = await target.fleet.client.hosts.get(HONEST_HOST);
        assertThat(host.state === "ready", "the honest host has no lease", host);
      },
    };
  },

  findings: async (target) => {
    const { fleet } = target;
    let named = 0;
    return {
      during: (signal) =>
        often(100, signal, async () => {
          named += 1;
          report(target, seen(madeUp(named)));
        }),
      check: async () => {
        const { length: kept } = await Array.fromAsync(fleet.client.hosts.findings(HOSTILE_HOST));
        assertThat(kept > 0 && kept <= FINDINGS_KEPT, "not as many findings as are kept", kept);
      },
    };
  },

  commits: async (target) => {
    const { fleet, sandbox } = target;
    const { id: sandboxId } = sandbox;
    const operationId = (await eventsOf(target, sandbox)).at(-1)?.operation ?? "";
    const about = { version: 1, hostId: HOSTILE_HOST };
    const commit = { ...about, type: "commit", sandboxId, operationId, epoch: 1, opSeq: 1 };
    const kept = await target.create();
    await fleet.client.sandboxes.pause(kept.id, { waitFor: "replicated" });
    const stored = await target.sql`SELECT store_key FROM snapshots WHERE sandbox_id = ${kept.id}`;
    const storeKeys = stored.map((row) => String(row["store_key"]));
    assertThat(storeKeys.length > 0 && !storeKeys.includes("null"), "nothing is stored", stored);
    const sandboxes = [kept, sandbox].map(({ id }) => ({ sandboxId: id, storeKeys }));
    return {
      during: (signal) =>
        often(50, signal, async (at) => {
          if (at % 2 === 0) {
            const answer = await ask(target, "commit", commit);
            assertThat(answer.granted === false, "another's operation was committed", answer);
          } else {
            const answer = await ask(target, "garbage", { ...about, type: "garbage", sandboxes });
            const named = [answer.deleted, answer.storeKeys].flat();
            assertThat(named.length === 0, "what another needs is garbage", answer);
          }
        }),
      check: async () => {
        const seen = await fleet.client.sandboxes.get(sandboxId);
        assertThat(seen.node_id === HONEST_HOST, "it is elsewhere", seen);
        await isUntouched(target);
        await fleet.client.sandboxes.delete(kept.id);
      },
    };
  },
};
