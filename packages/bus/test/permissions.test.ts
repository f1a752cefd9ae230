import {
  type Channel,
  CHANNELS,
  hostCommands,
  type HostId,
  OBSERVED_STATES,
} from "@torpor/contracts";
import { expect, test } from "vitest";
import { hostServices } from "../src/index.ts";

/** True if a subject may match both; `*` is any token. */
function meet(pattern: string, subject: string): boolean {
  const [ours, others] = [pattern.split("."), subject.split(".")];
  return (
    ours.length === others.length &&
    ours.every((token, at) => token === "*" || others[at] === "*" || token === others[at])
  );
}

test("a host may publish what the table of channels says that it writes, and nothing else", () => {
  const offered = hostServices("host-a").map(({ subject }) => subject);
  const own = offered.filter((subject) => !subject.startsWith("$JS."));
  const channels: Channel[] = Object.values(CHANNELS);
  for (const { pattern, writtenBy } of channels)
    expect(
      own.some((subject) => meet(pattern, subject)),
      pattern,
    ).toBe(writtenBy.includes("node-agent"));
  for (const subject of own)
    expect(
      channels.some(({ pattern }) => meet(pattern, subject)),
      subject,
    ).toBe(true);
  expect(own.filter((subject) => subject.includes(".obs."))).toHaveLength(OBSERVED_STATES.length);
});

test("a host reads the channel of commands alone, and of that its own", () => {
  const read = Object.entries<Channel>(CHANNELS).filter(([, { readBy }]) =>
    readBy.includes("node-agent"),
  );
  expect(read.map(([name]) => name)).toEqual(["command"]);
  expect(meet(CHANNELS.command.pattern, hostCommands("host-a" as HostId).filterSubject)).toBe(true);
});
