/** The benchmark's table for people. */
import { describeSize } from "@dmkit/block-io";
import type { Cost } from "./buckets.ts";
import type { BenchReport, Measurement, Row } from "./run.ts";
import { goalOf } from "./goals.ts";
import { processors } from "./steal.ts";

// Share of processor time that was taken from which on a ratio means little.
const TELLING = 0.05;

/** Columns: the load, each server's median with spread, our ratio to the best peer, and how much it is to be. */
export function printGroup({ rows, idle }: BenchReport, group: string): string {
  const own = rows.filter((row) => row.group === group);
  if (own.length === 0) return "";
  const servers = [...new Set(own.flatMap(({ measurements }) => measurements.map(({ server }) => server)))];
  const lines = [
    [group.padEnd(36), ...servers.map((name) => name.padStart(20)), "ratio".padStart(8), "   goal"].join(""),
  ];
  for (const row of own) {
    const cells = servers.map((name) => cell(named(row, name), row));
    lines.push([row.work.padEnd(36), ...cells, ratio(row.ratio), goal(row)].join(""));
    const width = 36 + 20 * servers.length;
    for (const { of, to, ratio: value, goal: least } of row.pairs) {
      const aim = least === undefined ? "" : verdict(value, least);
      lines.push(`${of} by ${to}`.padStart(width) + ratio(value) + aim);
    }
    for (const { server, cost } of row.measurements) {
      if (cost !== undefined) lines.push(`  ${server}: ${describeCost(cost)}`);
    }
    if (row.stolen > TELLING) lines.push(`  the host took up to ${processors(row.stolen)}: measure again`);
  }
  for (const { server, startup, memory } of idle.filter((one) => one.group === group)) {
    const size = memory === undefined ? "unknown" : describeSize(memory);
    lines.push(`${`idle ${server}`.padEnd(36)}answers after ${Math.round(startup)} ms, ${size} resident`);
  }
  return `${lines.join("\n")}\n\n`;
}

/** Of all groups: how many rows reach their goal, and what was left out. */
export function printVerdict({ rows, skipped }: BenchReport): string {
  const rated = rows.filter((row) => row.ratio !== undefined);
  const short = rated.filter((row) => !reaches(row));
  const lines = [`${rated.length - short.length} of ${rated.length} rows with a peer reach their goal`];
  for (const { group, work, ratio: value } of short) {
    lines.push(`  ${group}: ${work}: ${value?.toFixed(2)} of ${goalOf(group, work)}`);
  }
  for (const { group, work, pairs } of rows) {
    for (const { of, to, ratio: value, goal: least = 0 } of pairs) {
      if (!isReached(value, least))
        lines.push(`  ${group}: ${work}: ${of} by ${to}: ${value.toFixed(2)} of ${least.toFixed(2)}`);
    }
  }
  for (const reason of skipped) lines.push(`skipped ${reason}`);
  return `${lines.join("\n")}\n`;
}

function named({ measurements }: Row, name: string): Measurement | undefined {
  return measurements.find(({ server }) => server === name);
}

function reaches({ group, work, ratio: value = 0 }: Row): boolean {
  return isReached(value, goalOf(group, work));
}

function goal(row: Row): string {
  if (row.ratio === undefined) return "";
  return verdict(row.ratio, goalOf(row.group, row.work));
}

/** As it is printed: 0.996 is 1.00. */
function isReached(value: number, least: number): boolean {
  return Number(value.toFixed(2)) >= Number(least.toFixed(2));
}

function verdict(value: number, least: number): string {
  const digits = Number.isInteger(least * 10) ? 1 : 2;
  return `   ${least.toFixed(digits)} ${isReached(value, least) ? "reached" : "missed"}`;
}

/** Each for one read or write of a client. */
function describeCost({ requests, bytes, dollars }: Cost): string {
  return `${requests.toPrecision(2)} requests and ${Math.round(bytes)} bytes an I/O, $${dollars.toPrecision(2)} a million`;
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
