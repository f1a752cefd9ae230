/** docs/subjects.md. */
import {
  type Channel,
  CHANNELS,
  type ConsumerDefinition,
  hostCommands,
  SCHEDULER_INTENTS,
  SCHEDULER_OBSERVATIONS,
  type StreamDefinition,
  STREAMS,
  unverifiedHostId,
} from "../../packages/contracts/src/index.ts";
import { linkTo, madeOf, row } from "./markdown.ts";
import type { Source } from "./sources.ts";

type ChannelName = keyof typeof CHANNELS;

/** Patterns of code that writes or reads a message: the page lists the files with a match. */
const PLACES: Record<ChannelName, { writes: RegExp; reads: RegExp }> = {
  intent: { writes: /subjects\.intent\(/, reads: /consumer: SCHEDULER_INTENTS/ },
  command: { writes: /subjects\.command\(/, reads: /consumer: hostCommands\(/ },
  observation: { writes: /subjects\.observation\(/, reads: /consumer: SCHEDULER_OBSERVATIONS/ },
  event: { writes: /subjects\.sandboxEvent\(/, reads: /pattern: patterns\.events,/ },
  heartbeat: { writes: /subjects\.heartbeat\(/, reads: /pattern: patterns\.heartbeats,/ },
  register: asked("register"),
  lease: asked("lease"),
  commit: asked("commit"),
  thaw: asked("thaw"),
  garbage: asked("garbage"),
  certificate: asked("certificate"),
  placement: {
    writes: /request\(bus, subjects\.controlRequest\("placement"\)/,
    reads: /pattern: subjects\.controlRequest\("placement"\)/,
  },
};

function asked(question: string): { writes: RegExp; reads: RegExp } {
  return {
    writes: new RegExp(`type: "${question}",? version: 1|type: "${question}",\\n\\s+version: 1`),
    reads: new RegExp(`pattern: patterns\\.requests\\("${question}"\\)`),
  };
}

/** Programs of a fleet and their parts, without programs that only imitate one. */
const IS_PART = /^(apps|packages\/plans)\/.*src\//;

export function renderSubjects(sources: readonly Source[]): string {
  const parts = sources.filter(({ path }) => IS_PART.test(path));
  const consumers = [
    SCHEDULER_INTENTS,
    SCHEDULER_OBSERVATIONS,
    hostCommands(unverifiedHostId("<host>")),
  ];
  return [
    "# Streams and subjects",
    "",
    madeOf("packages/contracts/src/channels.ts"),
    "",
    "Messages are JSON, by the versioned schemas of packages/contracts/schemas. NATS only carries them:",
    "Postgres is the truth. A lost message costs time, because reconcilers find in Postgres what it was",
    "about.",
    "",
    "## Streams",
    "",
    "Publishes with the same `Nats-Msg-Id` within the window are stored once. A full stream drops its",
    "oldest message; where a subject has a limit, one too many is refused, and its writer keeps it.",
    "",
    "| stream | subjects | kept | at most | of a subject | window |",
    "|---|---|---|---|---|---|",
    ...Object.values(STREAMS).map(streamRow),
    "",
    "## Consumers",
    "",
    "| durable | stream | subjects | read by | redelivered after | deliveries | unacknowledged |",
    "|---|---|---|---|---|---|---|",
    ...consumers.map(consumerRow),
    "",
    "Gateways hear events as they are published, without a consumer. A message that was delivered so",
    "often is given up.",
    "",
    "## Messages",
    "",
    "| subject | written by | read by | what it says | schema |",
    "|---|---|---|---|---|",
    ...rowsOf("stream", parts),
    "",
    "## Fleeting messages",
    "",
    "Not stored: lost when no program listens, because the next one repeats it.",
    "",
    "| subject | written by | read by | what it says | schema |",
    "|---|---|---|---|---|",
    ...rowsOf("fleeting", parts),
    "",
    "## Requests",
    "",
    "One of the readers answers. No answer in time counts as “no”, or as “nothing”.",
    "",
    "| subject | asked by | answered by | what it says | schemas |",
    "|---|---|---|---|---|",
    ...rowsOf("request", parts),
    "",
    "A host publishes on its own subjects alone, and reads its own commands alone:",
    "[permissions.ts](../packages/bus/src/permissions.ts).",
    "",
  ].join("\n");
}

function rowsOf(delivery: Channel["delivery"], parts: Source[]): string[] {
  return Object.entries<Channel>(CHANNELS)
    .filter(([, channel]) => channel.delivery === delivery)
    .map(([name, channel]) => {
      const { writes, reads } = PLACES[name as ChannelName];
      return row(
        `\`${subjectOf(channel)}\``,
        `${channel.writtenBy.join(", ")}: ${filesWith(parts, writes, name)}`,
        `${channel.readBy.join(", ")}: ${filesWith(parts, reads, name)}`,
        channel.says,
        Object.keys(channel.schemas).map(schemaLink).join(", "),
      );
    });
}

function filesWith(parts: Source[], place: RegExp, channel: string): string {
  const found = parts.filter(({ text }) => place.test(text)).map(({ path }) => path);
  if (found.length === 0) throw new Error(`nothing in the code says ${place} (${channel})`);
  return found.map(linkTo).join(", ");
}

function subjectOf({ pattern, tokens }: Channel): string {
  let at = -1;
  return pattern.replaceAll("*", () => `<${tokens[(at += 1)]}>`);
}

const schemaLink = (name: string) => `[${name}](../packages/contracts/schemas/${name}.v1.json)`;

function streamRow(stream: StreamDefinition): string {
  const { name, subjects, retention, maxAgeMs, maxBytes, duplicateWindowMs } = stream;
  const until = retention === "workqueue" ? "until acknowledged, " : "";
  return row(
    name,
    code(...subjects),
    `${until}${maxAgeMs / 86_400_000} days`,
    `${maxBytes / 1024 ** 3} GiB`,
    stream.maxMessagesPerSubject === undefined ? "" : `${stream.maxMessagesPerSubject} messages`,
    `${duplicateWindowMs / 60_000} min`,
  );
}

function consumerRow(consumer: ConsumerDefinition): string {
  const { durable, stream, filterSubject, ackWaitMs, maxDeliver, maxAckPending } = consumer;
  const reader = Object.values<Channel>(CHANNELS).find(({ pattern }) =>
    STREAMS[stream as keyof typeof STREAMS].subjects.some((subject) => subject === pattern),
  );
  return row(
    `\`${durable}\``,
    stream,
    code(filterSubject),
    reader?.readBy.join(", ") ?? "",
    `${ackWaitMs / 1000} s`,
    maxDeliver < 0 ? "any number" : `${maxDeliver}`,
    `${maxAckPending}`,
  );
}

const code = (...subjects: string[]) => subjects.map((subject) => `\`${subject}\``).join(", ");
