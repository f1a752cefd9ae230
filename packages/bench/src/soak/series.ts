/** The samples of a soak by source, and the report about them. */
import type { Rows } from "../report/result.ts";
import { type Fit, fitOf, type Sample } from "./fit.ts";
import { KINDS, type Reading, type Series } from "./samples.ts";

export interface SeriesFit extends Series, Omit<Fit, "verdict"> {
  unit: string;
  /** All samples, including those of the warm-up. */
  all: Sample[];
  verdict: Fit["verdict"] | "not judged";
  /** The reason why it is not judged. */
  because?: string;
}

const UNLIMITED = { rise: Number.POSITIVE_INFINITY, share: 0 };

export class Soaked {
  private readonly series = new Map<string, Series & { samples: Sample[] }>();

  add(atS: number, readings: readonly Reading[]): void {
    for (const { of, what, value } of readings) {
      const name = `${of} ${what}`;
      const one = this.series.get(name) ?? { of, what, samples: [] };
      one.samples.push({ atS, value });
      this.series.set(name, one);
    }
  }

  fits(): SeriesFit[] {
    return [...this.series.values()].map(({ of, what, samples }) => {
      const kind = KINDS[what];
      const one = { of, what, unit: kind.unit, all: samples };
      if ("allowed" in kind) return { ...one, ...fitOf(samples, kind.allowed) };
      const fit = fitOf(samples, UNLIMITED);
      return { ...one, ...fit, verdict: "not judged", because: kind.because };
    });
  }
}

export const hasGrown = (series: readonly SeriesFit[]) =>
  series.some(({ verdict }) => verdict === "grows");

export function soakRows(series: readonly SeriesFit[]): Rows {
  const rows = series.map((one) => [
    one.of,
    one.what,
    ...[one.first, one.last, one.perHour, one.scatter].map((value) => value.toFixed(1)),
    one.unit,
    said(one),
  ]);
  const head = ["COMPONENT", "WHAT", "FIRST", "LAST", "PER HOUR", "SCATTER", "", "VERDICT"];
  return {
    title: "After the warm-up (the first third), by the line through the samples",
    head,
    rows,
  };
}

function said({ verdict, because, perHour, unit }: SeriesFit): string {
  if (verdict === "unknown") return "too few samples";
  if (verdict === "not judged") return `not judged: ${because}`;
  return verdict === "flat" ? "flat" : `grows by ${perHour.toFixed(1)} ${unit}/h`;
}
