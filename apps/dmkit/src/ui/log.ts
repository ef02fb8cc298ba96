/**
 * What the command writes to stderr besides its output: one line an event, for people, for programs, or for the journal.
 *
 *     text      2026-11-29T06:00:00.000Z warn a device is degraded device="disk" why="…"
 *     json      {"time":"2026-11-29T06:00:00.000Z","level":"warn","message":"a device is degraded","device":"disk",…}
 *     journal   <4>a device is degraded device="disk" why="…"
 *
 * The journal has the time itself, and takes the priority from the line (sd-daemon(3)). Invariant: an event is one line,
 * whatever its text has in it.
 */
import { fstatSync } from "node:fs";
import { type LogLevel, type Logger, printable, printableJson } from "@dmkit/block-io";

const levels: readonly LogLevel[] = ["debug", "info", "warn", "error"];

export const logFormats = ["text", "json", "journal"] as const;
export type LogFormat = (typeof logFormats)[number];

/** Of syslog(3). */
const priorities: Readonly<Record<LogLevel, number>> = { debug: 7, info: 6, warn: 4, error: 3 };
const STDERR = 2;

type Fields = Readonly<Record<string, unknown>>;

const writers: Readonly<
  Record<LogFormat, (level: LogLevel, message: string, fields: Fields, time: Date) => string>
> = {
  text: (level, message, fields, time) =>
    `${time.toISOString()} ${level} ${printable(message)}${pairsOf(fields)}`,
  json: (level, message, fields, time) => {
    // What is ours is not replaced by a field of that name.
    const own = { time: time.toISOString(), level, message };
    return printableJson({ ...own, ...fields, ...own });
  },
  journal: (level, message, fields) => `<${priorities[level]}>${printable(message)}${pairsOf(fields)}`,
};

function pairsOf(fields: Fields): string {
  return Object.entries(fields)
    .map(([key, value]) => ` ${key}=${printableJson(value)}`)
    .join("");
}

/** One event, with the newline that ends it. */
export function formatEvent(
  format: LogFormat,
  level: LogLevel,
  message: string,
  fields: Fields = {},
  time: Date = new Date(),
): string {
  return `${writers[format](level, message, fields, time)}\n`;
}

/** `journal` where stderr is the journal's ($JOURNAL_STREAM names its device and inode), `text` elsewhere. */
export function usualFormat(environment: NodeJS.ProcessEnv = process.env): LogFormat {
  const stream = environment["JOURNAL_STREAM"];
  if (stream === undefined) return "text";
  try {
    const { dev, ino } = fstatSync(STDERR, { bigint: true });
    return stream === `${dev}:${ino}` ? "journal" : "text";
  } catch {
    // Stderr is closed.
    return "text";
  }
}

/** Events from `least` on. */
export function stderrLogger(least: LogLevel, format: LogFormat = usualFormat()): Logger {
  const from = levels.indexOf(least);
  return {
    log(level, message, fields) {
      if (levels.indexOf(level) >= from) process.stderr.write(formatEvent(format, level, message, fields));
    },
  };
}
