/** The options of `torpor test`. */
import { parseArgs } from "node:util";
import { numberFrom, wholeNumber } from "../shape.ts";

export const LAYERS = ["unit", "integration", "system", "conformance", "vm"] as const;
export type Layer = (typeof LAYERS)[number];
const PARTS: readonly string[] = ["verify", ...LAYERS];
/**
 * Layers that take seconds. Tests of the other layers do not import the programs of their fleets,
 * so those layers run only on request.
 */
const INNER_LOOP: readonly Layer[] = ["unit", "integration"];
const DEFAULT_TIMES = 20;
/** Upper bound of vitest's seeds. */
export const SEED_LIMIT = 2 ** 31;

export interface TestOptions {
  /** Runs the static checks. */
  isVerified: boolean;
  layers: Layer[];
  /** Also runs tests tagged `exhaustive`, and the mutations. */
  isExhaustive: boolean;
  /** `1/3`: the first of three parts of every layer's files. */
  shard?: { index: number; count: number };
  /** Runs only files that a change since this commit can affect. */
  changedSince?: string;
  /** Runs only these files, repeatedly under load. */
  stress?: { files: string[]; times: number };
  /** Seed of the order of the tests, and of all random values in them. */
  seed: number;
}

const FLAGS = {
  all: { type: "boolean", default: false },
  shard: { type: "string" },
  changed: { type: "boolean", default: false },
  since: { type: "string" },
  stress: { type: "boolean", default: false },
  times: { type: "string" },
  seed: { type: "string" },
} as const;

/** Throws a line that names the wrong argument. */
export function testOptions(args: string[], newSeed: () => number): TestOptions {
  const { values, positionals } = parseArgs({ args, allowPositionals: true, options: FLAGS });
  const seed =
    values.seed === undefined ? newSeed() : numberFrom("--seed", values.seed, 0, SEED_LIMIT - 1);
  const none = { isVerified: false, layers: [], isExhaustive: values.all, seed };
  if (!values.stress && values.times !== undefined) throw new Error("--times goes with --stress");
  if (!values.changed && values.since !== undefined) throw new Error("--since goes with --changed");
  if (values.stress) return { ...none, stress: stressOf(positionals, values.times) };
  const unknown = positionals.find((name) => !PARTS.includes(name));
  if (unknown !== undefined)
    throw new Error(`there is no test layer "${unknown}"; there are: ${PARTS.join(", ")}`);
  const isWanted = (part: string) => positionals.length === 0 || positionals.includes(part);
  const layers = LAYERS.filter(isWanted);
  if (values.changed)
    return {
      ...none,
      layers: positionals.length === 0 ? [...INNER_LOOP] : layers,
      changedSince: values.since ?? "HEAD",
    };
  return {
    ...none,
    isVerified: isWanted("verify"),
    layers,
    ...(values.shard === undefined ? {} : { shard: shardOf(values.shard) }),
  };
}

function stressOf(files: string[], times: string | undefined): { files: string[]; times: number } {
  if (files.length === 0) throw new Error("--stress needs the test files to repeat");
  return {
    files,
    times: times === undefined ? DEFAULT_TIMES : numberFrom("--times", times, 1, 10_000),
  };
}

function shardOf(text: string): { index: number; count: number } {
  const [index, count] = text.split("/").map(wholeNumber);
  if (index === undefined || count === undefined || !(index >= 1 && index <= count))
    throw new Error(`--shard must be i/n with i from 1 to n, not "${text}"`);
  return { index, count };
}
