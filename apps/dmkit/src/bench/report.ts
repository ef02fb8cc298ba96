/** The benchmark's table for people. */
import { describeSize } from "@dmkit/block-io";
import type { BenchReport, Measurement, Row } from "./run.ts";
import { processors } from "./steal.ts";

// Share of processor time that was taken from which on a ratio means little.
const TELLING = 0.05;

/** Columns: the load, each server's median with spread, our ratio to the best peer. */
export function printTable({ rows, idle, skipped }: BenchReport): string {
  const lines: string[] = [];
  for (const group of new Set(rows.map((row) => row.group))) {
    const own = rows.filter((row) => row.group === group);
    const servers = [...new Set(own.flatMap(({ measurements }) => measurements.map(({ server }) => server)))];
    lines.push(
      "",
      [group.padEnd(36), ...servers.map((name) => name.padStart(20)), "ratio".padStart(8)].join(""),
    );
    for (const row of own) {
      lines.push(
        [row.work.padEnd(36), ...row.measurements.map((one) => cell(one, row)), ratio(row.ratio)].join(""),
      );
      const width = 36 + 20 * row.measurements.length;
      for (const pair of row.pairs)
        lines.push(`${pair.of} by ${pair.to}`.padStart(width) + ratio(pair.ratio));
      if (row.stolen > TELLING) lines.push(`  the host took up to ${processors(row.stolen)}: measure again`);
    }
    for (const { server, startup, memory } of idle.filter((one) => one.group === group)) {
      const size = memory === undefined ? "unknown" : describeSize(memory);
      lines.push(`${`idle ${server}`.padEnd(36)}answers after ${Math.round(startup)} ms, ${size} resident`);
    }
  }
  for (const reason of skipped) lines.push(`skipped ${reason}`);
  return `${lines.join("\n").trimStart()}\n`;
}

function cell(measurement: Measurement | undefined, { unit }: Row): string {
  if (measurement === undefined) return "fails".padStart(20);
  const { median, spread } = measurement;
  const value = unit === "iops" ? `${(median / 1000).toFixed(1)}k` : `${Math.round(median / 2 ** 20)} MiB/s`;
  return `${value} ±${Math.round(spread * 50)}%`.padStart(20);
}

function ratio(value: number | undefined): string {
  return (value === undefined ? "-" : value.toFixed(2)).padStart(8);
}
