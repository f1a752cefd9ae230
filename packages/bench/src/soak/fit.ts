/**
 * Detects whether a number grows: fits a line (least squares) to its samples after a warm-up.
 *
 * The number grows if the line rises by more than twice the scatter of the samples, and by more
 * than is allowed. The allowance is for the whole duration: the longer it is, the less growth per
 * hour is allowed.
 */
export interface Sample {
  atS: number;
  value: number;
}

/** A rise above both is growth. */
export interface Allowed {
  rise: number;
  /** Share of the mean. */
  share: number;
}

export interface Fit {
  /** Number of samples after the warm-up. */
  samples: number;
  mean: number;
  first: number;
  last: number;
  perHour: number;
  /** Standard deviation of the samples from the line. */
  scatter: number;
  verdict: "flat" | "grows" | "unknown";
}

/** Share of the duration that is left out: programs fill caches and pools after their start. */
const WARM_UP_SHARE = 1 / 3;
const LEAST_SAMPLES = 5;
const SECONDS_PER_HOUR = 3_600;

export function fitOf(all: readonly Sample[], allowed: Allowed): Fit {
  const [begin, end] = [all[0]?.atS ?? 0, all.at(-1)?.atS ?? 0];
  const samples = all.filter(({ atS }) => atS >= begin + (end - begin) * WARM_UP_SHARE);
  const [meanAt, mean] = [meanOf(samples.map(({ atS }) => atS)), meanOf(valuesOf(samples))];
  const spread = sumOf(samples.map(({ atS }) => (atS - meanAt) ** 2));
  const common = sumOf(samples.map(({ atS, value }) => (atS - meanAt) * (value - mean)));
  const perSecond = spread === 0 ? 0 : common / spread;
  const off = samples.map(({ atS, value }) => value - mean - perSecond * (atS - meanAt));
  const scatter = Math.sqrt(meanOf(off.map((one) => one ** 2)));
  const rise = perSecond * ((samples.at(-1)?.atS ?? 0) - (samples[0]?.atS ?? 0));
  const grows = rise > 2 * scatter && rise > Math.max(allowed.rise, allowed.share * mean);
  return {
    samples: samples.length,
    mean,
    first: samples[0]?.value ?? Number.NaN,
    last: samples.at(-1)?.value ?? Number.NaN,
    perHour: perSecond * SECONDS_PER_HOUR,
    scatter,
    verdict: samples.length < LEAST_SAMPLES ? "unknown" : grows ? "grows" : "flat",
  };
}

const valuesOf = (samples: readonly Sample[]) => samples.map(({ value }) => value);
const sumOf = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0);
const meanOf = (values: readonly number[]) =>
  values.length === 0 ? Number.NaN : sumOf(values) / values.length;
