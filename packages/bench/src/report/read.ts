/** An earlier result, from its file. */
import { readFile } from "node:fs/promises";
import { type Static, type TSchema, Type } from "typebox";
import { Compile } from "typebox/compile";
import { type BenchResult, RESULT_FORMAT } from "./result.ts";

const Numbers = Type.Record(Type.String(), Type.Number());
/** The fields that a comparison needs. A quantile of an empty list is null in JSON. */
const ControlPlaneStep = Type.Object({
  name: Type.String(),
  clients: Type.Number(),
  perSecond: Type.Number(),
  latencies: Type.Record(
    Type.String(),
    Type.Object({
      p50Ms: Type.Union([Type.Number(), Type.Null()]),
      p99Ms: Type.Union([Type.Number(), Type.Null()]),
    }),
  ),
  cpuPercent: Numbers,
  cpuMsPerUnit: Type.Optional(Numbers),
  countersPerSecond: Numbers,
  countersPerUnit: Type.Optional(Numbers),
  statementsPerSecond: Type.Optional(Numbers),
  statementsPerUnit: Type.Optional(Numbers),
});
const LifecycleStep = Type.Object({
  name: Type.String(),
  p50Ms: Type.Number(),
  stagesMs: Numbers,
  agentCpuMs: Type.Optional(Type.Number()),
});

const resultWith = <T extends TSchema>(step: T) =>
  Compile(
    Type.Object({
      format: Type.Literal(RESULT_FORMAT),
      benchmark: Type.String(),
      steps: Type.Array(step, { maxItems: 1_000 }),
    }),
  );
const Result = resultWith(ControlPlaneStep);
const OfLifecycle = resultWith(LifecycleStep);
export type EarlierLifecycle = { steps: Static<typeof LifecycleStep>[] };

/** Throws a line if the file is no result of that benchmark. */
export async function readResult(file: string, benchmark: string): Promise<BenchResult> {
  return (await read(file, benchmark, Result)) as unknown as BenchResult;
}

/** Like `readResult`. */
export async function readLifecycle(file: string): Promise<EarlierLifecycle> {
  return (await read(file, "lifecycle", OfLifecycle)) as unknown as EarlierLifecycle;
}

async function read(
  file: string,
  benchmark: string,
  schema: { Check(value: unknown): value is { benchmark: string } },
): Promise<object> {
  const value: unknown = await readFile(file, "utf8")
    .then(JSON.parse)
    .catch((cause: unknown) => {
      throw new Error(`${file} cannot be read: give a file that --json has written`, { cause });
    });
  if (!schema.Check(value))
    throw new Error(`${file} is no result of a benchmark: give a file that --json has written`);
  if (value.benchmark !== benchmark)
    throw new Error(
      `${file} is of "${value.benchmark}", and cannot be compared with "${benchmark}"`,
    );
  return value;
}
