// Numbers and times as people read them. One place, so that the same thing looks the same everywhere.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (n: number): string => whole.format(n);
/** 12,345 up to 99,999, then 123K. */
export const short = (n: number): string => (Math.abs(n) < 10_000 ? whole.format(n) : compact.format(n));

export function duration(us: number | null | undefined): string {
  if (us === null || us === undefined) return "–";
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 10_000) return `${(us / 1000).toFixed(1)} ms`;
  if (us < 1_000_000) return `${Math.round(us / 1000)} ms`;
  return `${(us / 1_000_000).toFixed(1)} s`;
}

export function rate(perSecond: number): string {
  if (perSecond === 0) return "0/s";
  if (perSecond < 0.1) return `${short(perSecond * 3600)}/h`;
  if (perSecond < 1) return `${short(perSecond * 60)}/min`;
  return `${perSecond < 10 ? perSecond.toFixed(1) : short(perSecond)}/s`;
}

export function bytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = n;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function share(part: number, of: number): string {
  if (of === 0) return "0 %";
  const percent = (part / of) * 100;
  if (percent > 0 && percent < 0.1) return "< 0.1 %";
  return `${percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
}

const two = (n: number): string => String(n).padStart(2, "0");

export function clock(time: string | number | Date, millis = false): string {
  const date = new Date(time);
  const text = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return millis ? `${text}.${String(date.getMilliseconds()).padStart(3, "0")}` : text;
}

export function day(time: string | number | Date): string {
  const date = new Date(time);
  return date.toLocaleDateString("en-GB", { weekday: "short", day: "numeric", month: "short" });
}

export function moment(time: string): string {
  return `${day(time)}, ${clock(time)}`;
}

/** "3 min", "2 h": a length in its largest sensible unit. */
export function span(seconds: number): string {
  const s = Math.abs(seconds);
  if (s < 60) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 172_800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86_400)} days`;
}

export function ago(time: string | null | undefined, now: number): string {
  if (!time) return "never";
  const seconds = (now - Date.parse(time)) / 1000;
  return seconds < 5 ? "now" : `${span(seconds)} ago`;
}

export const plural = (n: number, one: string, many = `${one}s`): string => `${short(n)} ${n === 1 ? one : many}`;

/** The same where lines may stand. */
export const visibleLines = (text: string | null | undefined): string => (text ?? "").split("\n").map(visible).join("\n");

/** Control characters and bidirectional overrides from traffic, made visible. */
export function visible(text: string | null | undefined): string {
  return (text ?? "").replace(
    // eslint-disable-next-line no-control-regex
    /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`,
  );
}
