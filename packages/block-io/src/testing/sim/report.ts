/** The summary at the end of `sim`: one table by target, one by kind of fault. */
import { type FaultKind, faultKinds } from "./disk/faults.ts";
import type { SimSummary } from "./run/simulate.ts";

/** Runs, cycles, speed and failures of each target. */
export function targetTable(summaries: readonly SimSummary[]): string {
  const head = [
    "target",
    "runs",
    "cycles",
    "in recovery",
    "requests",
    "repeated",
    "per second",
    "failing",
    "hash",
  ];
  const rows = summaries.map((so) => [
    so.target,
    String(so.runs),
    String(so.cycles),
    String(so.inRecovery),
    String(so.operations),
    String(so.repeated),
    String(so.seconds > 0 ? Math.round(so.cycles / so.seconds) : 0),
    String(so.failures.length),
    so.hash,
  ]);
  return table([head, ...rows]);
}

/** How often each fault struck each target; empty if none did. */
export function faultTable(summaries: readonly SimSummary[]): string {
  const kinds = (Object.keys(faultKinds) as FaultKind[]).filter((kind) =>
    summaries.some(({ faults }) => faults.has(kind)),
  );
  if (kinds.length === 0) return "";
  const rows = summaries.map(({ target, faults }) => [
    target,
    ...kinds.map((kind) => String(faults.get(kind) ?? 0)),
  ]);
  return table([["faults", ...kinds], ...rows]);
}

/** Left-aligned first and last column of text, numbers to the right. */
function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? "").length)),
  );
  return rows
    .map((row) => row.map((cell, column) => pad(cell, widths[column] ?? 0, column === 0)).join("  "))
    .map((line) => `${line.trimEnd()}\n`)
    .join("");
}

function pad(text: string, width: number, left: boolean): string {
  return left ? text.padEnd(width) : text.padStart(width);
}
