/** Numbers as people read them. What there is none of is a dash. */

export const NONE = "–";

const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] as const;

/** At most three digits that matter, and a unit. */
export function bytes(value: number | undefined): string {
  if (value === undefined) return NONE;
  let rest = value;
  let unit = 0;
  while (rest >= 1024 && unit < units.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  return `${short(rest)} ${units[unit]}`;
}

/** Bytes a second. */
export function rate(value: number | undefined): string {
  return value === undefined ? NONE : `${bytes(value)}/s`;
}

export function count(value: number | undefined): string {
  if (value === undefined) return NONE;
  if (value >= 1e6) return `${short(value / 1e6)}M`;
  return value >= 10_000 ? `${short(value / 1000)}k` : short(value);
}

/** @param value microseconds. */
export function latency(value: number | undefined): string {
  if (value === undefined) return NONE;
  if (value < 1000) return `${short(value)} µs`;
  return value < 1e6 ? `${short(value / 1000)} ms` : `${short(value / 1e6)} s`;
}

/** @param value a share in 0 … 1. */
export function percent(value: number | undefined): string {
  return value === undefined ? NONE : `${short(value * 100)} %`;
}

/** @param seconds at most two units: `3 d 4 h`, `12 s`. */
export function duration(seconds: number | undefined): string {
  if (seconds === undefined || !Number.isFinite(seconds)) return NONE;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** @param time milliseconds since 1970. */
export function clock(time: number): string {
  const at = new Date(time);
  return [at.getHours(), at.getMinutes(), at.getSeconds()]
    .map((part) => String(part).padStart(2, "0"))
    .join(":");
}

/** As much of a text as has room, its end: that of a path says more than its beginning. */
export function ending(text: string, room: number): string {
  const letters = Array.from(text);
  return letters.length <= room ? text : `…${letters.slice(letters.length - room + 1).join("")}`;
}

/** The same with its beginning. */
export function beginning(text: string, room: number): string {
  const letters = Array.from(text);
  return letters.length <= room ? text : `${letters.slice(0, room - 1).join("")}…`;
}

function short(value: number): string {
  if (value === 0) return "0";
  if (value < 10) return value.toFixed(value < 1 ? 2 : 1).replace(/\.0+$/, "");
  return String(Math.round(value));
}

/** An export may have no name: it is the one for clients that ask for none. */
export function exportName(name: string): string {
  return name === "" ? "(default)" : name;
}

/** The targets of a device, each once; a broken one has none. */
export function targetsOf({
  segments,
}: {
  readonly segments: readonly { readonly target: string }[];
}): string {
  return [...new Set(segments.map(({ target }) => target))].join(", ") || NONE;
}
