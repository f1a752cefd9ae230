/**
 * This version and the released versions read each other's messages (docs/operate/upgrades.md). A
 * release is its schemas, read by the decoder that its programs use, and messages as its programs
 * wrote them.
 */
import { readdirSync, readFileSync } from "node:fs";
import fc from "fast-check";
import type { TSchema } from "typebox";
import { describe, expect, test } from "vitest";
import { versionedSchemas } from "../src/versioned-schemas.ts";
import {
  decodeHeartbeat,
  type Decoder,
  decoder,
  InvalidMessageError,
  ReceivedCommand,
} from "../src/index.ts";
import {
  type JsonSchema,
  messagesOf,
  type Vocabulary,
  vocabularyOf,
} from "./support/json-schema.ts";

/**
 * Values that this version may write and a release does not know, by release and field. The release
 * rejects such a message, names the field, and continues with the next message. So
 * docs/operate/upgrades.md must cover a value before it is added here.
 */
const NEW_VALUES: Record<string, Record<string, unknown[]>> = {
  "0.1.0": { "command.v1.json.kind": ["quarantine", "unquarantine", "replicate"] },
};

const folder = new URL("../released/", import.meta.url);
const json = (path: string): unknown => JSON.parse(readFileSync(new URL(path, folder), "utf8"));
const schemaDecoder = (schema: JsonSchema): Decoder<unknown> => decoder(schema as TSchema);
const bytes = (message: unknown) => new TextEncoder().encode(JSON.stringify(message));

const current = new Map(
  versionedSchemas().map(([name, text]) => [name, JSON.parse(text) as JsonSchema]),
);
/**
 * Decoders as this version's programs use them: a host accepts commands of any kind, a scheduler
 * the part of an inventory that it understands.
 */
const readers: Record<string, Decoder<unknown>> = {
  ...Object.fromEntries([...current].map(([name, schema]) => [name, schemaDecoder(schema)])),
  "command.v1.json": decoder(ReceivedCommand),
  "heartbeat.v1.json": decodeHeartbeat,
};

const RELEASES = readdirSync(folder);
const MESSAGES = RELEASES.flatMap((release) =>
  readdirSync(new URL(`${release}/schemas/`, folder)).map((name) => ({ release, name })),
);
const releasedSchema = ({ release, name }: { release: string; name: string }) =>
  json(`${release}/schemas/${name}`) as JsonSchema;

test("there is a release to compare with", () => {
  expect(RELEASES).not.toEqual([]);
});

describe.each(MESSAGES)("$release $name", (message) => {
  const { release, name } = message;
  const old = releasedSchema(message);
  const schema = current.get(name) ?? {};
  const samples = (json(`${release}/messages.json`) as Record<string, unknown[]>)[name] ?? [];

  test("is still a message, and has been written down as it was written", () => {
    expect(current.has(name)).toBe(true);
    expect(samples.length).toBeGreaterThan(0);
    for (const sample of samples) expect(schemaDecoder(old)(name, bytes(sample))).toEqual(sample);
  });

  test("what the release wrote is read here", () => {
    for (const sample of samples) expect(readers[name]?.(name, bytes(sample))).toEqual(sample);
  });

  test("whatever the release may write is read here", () => {
    const everything: Vocabulary = new Map();
    fc.assert(
      fc.property(messagesOf(old, everything), (written) => accepts(readers[name], name, written)),
    );
  });

  test("whatever is written here is read by the release, but for values that it does not know", () => {
    fc.assert(
      fc.property(messagesOf(schema, vocabularyOf(old)), (written) =>
        accepts(schemaDecoder(old), name, written),
      ),
    );
  });

  test("the values that it does not know are listed above", () => {
    const known = vocabularyOf(old);
    const added = [...vocabularyOf(schema)].flatMap(([path, values]) => {
      const before = known.get(path);
      const more = before === undefined ? [] : [...values].filter((value) => !before.has(value));
      return more.length === 0 ? [] : [[`${name}${path}`, more] as const];
    });
    const listed = Object.entries(NEW_VALUES[release] ?? {}).filter(([field]) =>
      field.startsWith(`${name}.`),
    );
    expect(Object.fromEntries(added)).toEqual(Object.fromEntries(listed));
  });
});

function accepts(read: Decoder<unknown> | undefined, subject: string, message: unknown): boolean {
  read?.(subject, bytes(message));
  return read !== undefined;
}

describe("a value that only a newer version knows", () => {
  const samples = (name: string) =>
    RELEASES.flatMap(
      (release) =>
        (json(`${release}/messages.json`) as Record<string, Record<string, unknown>[]>)[name] ?? [],
    );

  test("in a command passes the host's decoder, which answers it; a host of 0.1.0 rejects the message by its field", () => {
    const [command] = samples("command.v1.json");
    const unknown = { ...command, kind: "teleport" };
    expect(decoder(ReceivedCommand)("s", bytes(unknown))).toMatchObject({ kind: "teleport" });
    const old = schemaDecoder(releasedSchema({ release: "0.1.0", name: "command.v1.json" }));
    expect(() => old("s", bytes(unknown))).toThrow(InvalidMessageError);
    expect(() => old("s", bytes(unknown))).toThrow(/\/kind/);
  });

  test("of one sandbox does not keep the rest of a heartbeat from being read", () => {
    const [heartbeat] = samples("heartbeat.v1.json");
    const [running, paused] = (heartbeat?.["inventory"] ?? []) as Record<string, unknown>[];
    const seen = decodeHeartbeat(
      "s",
      bytes({ ...heartbeat, inventory: [{ ...running, state: "hibernating" }, paused] }),
    );
    expect(seen.inventory).toEqual([paused]);
  });

  test("in anything else is rejected by its field", () => {
    const [observation] = samples("observation.v1.json");
    expect(() =>
      readers["observation.v1.json"]?.("s", bytes({ ...observation, state: "hibernating" })),
    ).toThrow(/\/state/);
  });
});
