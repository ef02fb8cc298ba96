/** Figures as text: a table for exports, one for devices. */
import { describeSize, printable } from "@dmkit/block-io";
import type { DeviceFigures, ExportFigures, Figures, Flow, Traffic } from "./figures.ts";

/** Columns of traffic; those of one table share them. */
const trafficTitles = ["READ/s", "MiB/s", "p50", "p99", "WRITE/s", "MiB/s", "p50", "p99", "FLUSH/s"];

/** Lines without colours or line ends. */
export function screenOf(figures: Figures): string[] {
  const { pid, uptime, connections, bytesInFlight, exports, devices } = figures;
  const head = `dmkit ${pid}  up ${duration(uptime)}  ${connections} ${connections === 1 ? "client" : "clients"}  ${describeSize(bytesInFlight)} in flight`;
  return [
    head,
    "",
    ...grid(["EXPORT", "CLIENTS", ...trafficTitles, "ERR/s"], exports.map(exportRow)),
    "",
    ...grid(["DEVICE", "STATE", ...trafficTitles, "HITS", "DIRTY", "SEGM", "RATIO"], devices.map(deviceRow)),
  ];
}

function exportRow(one: ExportFigures): string[] {
  return [one.name === "" ? '""' : one.name, String(one.clients), ...trafficRow(one), number(one.errors)];
}

function deviceRow(one: DeviceFigures): string[] {
  return [
    one.name,
    one.state,
    ...trafficRow(one),
    percent(one.hits),
    percent(one.dirty),
    one.segments === undefined ? "" : String(one.segments),
    one.ratio === undefined ? "" : one.ratio.toFixed(2),
  ];
}

function trafficRow({ read, write, flushes }: Traffic): string[] {
  const flow = ({ iops, rate, p50, p99 }: Flow): string[] => [
    number(iops),
    number(rate / 2 ** 20),
    time(p50),
    time(p99),
  ];
  return [...flow(read), ...flow(write), number(flushes)];
}

/** Columns as wide as what is in them: the first to the left, numbers to the right. */
function grid(titles: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const all = [titles, ...rows.map((row) => row.map(printable))];
  const widths = titles.map((_, index) => Math.max(...all.map((row) => (row[index] ?? "").length)));
  return all.map((row) =>
    row
      .map((cell, index) =>
        index === 0 ? cell.padEnd(widths[index] ?? 0) : cell.padStart(widths[index] ?? 0),
      )
      .join("  ")
      .trimEnd(),
  );
}

/** At most four digits that matter. */
export function number(value: number): string {
  if (value === 0) return "0";
  if (value < 10) return value.toFixed(2);
  if (value < 100) return value.toFixed(1);
  return value < 100_000 ? String(Math.round(value)) : `${Math.round(value / 1000)}k`;
}

/** @param microseconds undefined: there was nothing to measure. */
export function time(microseconds: number | undefined): string {
  if (microseconds === undefined) return "";
  if (microseconds < 1000) return `${Math.round(microseconds)} µs`;
  const milliseconds = microseconds / 1000;
  return milliseconds < 1000
    ? `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`
    : `${(milliseconds / 1000).toFixed(1)} s`;
}

function percent(value: number | undefined): string {
  return value === undefined ? "" : `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`;
}

/** @param milliseconds as `3 d 4 h`, `12 s`. */
export function duration(milliseconds: number): string {
  const seconds = Math.floor(milliseconds / 1000);
  const [days, hours, minutes] = [
    Math.floor(seconds / 86_400),
    Math.floor(seconds / 3600) % 24,
    Math.floor(seconds / 60) % 60,
  ];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}
