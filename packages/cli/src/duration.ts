const SECONDS: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400 };

/** `90s`, `30m`, `12h`, `30d`. Throws one line that names the option. */
export function durationSeconds(name: string, text: string): number {
  const [, count = "", unit = ""] = /^(\d{1,6})([smhd])$/.exec(text) ?? [];
  const seconds = SECONDS[unit];
  if (seconds === undefined)
    throw new Error(`${name} must be a number of s, m, h or d, as in 30d, not "${text}"`);
  return Number(count) * seconds;
}
