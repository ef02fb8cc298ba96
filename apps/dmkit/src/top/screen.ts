/**
 * Figures as text: a table with what was asked for, cut to fit a terminal, or all there is for a pipe.
 *
 * Invariant: a line has no more characters than the terminal has columns, none of them a control character: names come
 * from peers.
 */
import { describeSize, printable } from "@dmkit/block-io";
import { healthLines } from "../manager/health-watch.ts";
import { type Column, type View, duration, views, wideDevices, wideExports } from "./columns.ts";
import { type Controls, columnsOf, help, ordered } from "./controls.ts";
import type { Figures } from "./figures.ts";
import type { History } from "./history.ts";

export interface Size {
  readonly columns: number;
  readonly rows: number;
}

// Characters of the longest name that is shown in full where others need the room, and of the shortest curve.
const LONGEST_NAME = 20;
const SHORTEST_NAME = 8;
const SHORTEST_CURVE = 6;
const GAP = 2;

/** For a pipe or a file: exports and devices with all columns. Lines without colours or line ends. */
export function screenOf(figures: Figures): string[] {
  return [
    headOf(figures),
    "",
    ...grid(wideExports, figures.exports),
    "",
    ...grid(wideDevices, figures.devices),
    ...illsOf(figures),
  ];
}

/** For a terminal: at most as many lines, and as many characters in each, as it has. */
export function pageOf(figures: Figures, controls: Controls, history: History, size: Size): string[] {
  const { rows, columns: width } = size;
  const lines = controls.help
    ? [headOf(figures), "", ...help.map(([key, does]) => `  ${key.padEnd(9)} ${does}`)]
    : tablePage(figures, controls, history, size);
  const foot = "d devices  e exports  l clients  c columns  s sort  p pause  h help  q quit";
  const body = lines.slice(0, Math.max(0, rows - 1)).map((line) => cut(line, width));
  while (body.length < rows - 1) body.push("");
  return [...body, cut(foot, width)].slice(-rows);
}

function tablePage(figures: Figures, controls: Controls, history: History, size: Size): string[] {
  const view = views[controls.view];
  const all = ordered(view, view.rows(figures), controls);
  const ills = controls.view === "devices" ? illsOf(figures) : [];
  const wrapped = ills.flatMap((line) => wrap(line, size.columns));
  const told = wrapped.slice(0, Math.max(0, Math.floor((size.rows - 5) / 2)));
  const room = Math.max(1, size.rows - 5 - told.length);
  const from = Math.min(controls.from, Math.max(0, all.length - room));
  const rows = all.slice(from, from + room);
  const more = all.length > room ? `  ${from + 1} to ${from + rows.length} of ${all.length}` : "";
  const about = `${view.title}, ${columnsOf(view, controls)}, ${controls.order === "as made" ? "as made" : `by ${controls.order}`}`;
  return [
    `${controls.paused ? "PAUSED  " : ""}${headOf(figures)}`,
    `${about}${more}`,
    "",
    ...(rows.length === 0 ? [`No ${view.title}`] : fitted(view, rows, controls, history, size.columns)),
    ...told,
  ];
}

/** The table, with the columns that fit and a curve of requests in what is left of the line. */
function fitted(
  view: View<unknown>,
  rows: readonly unknown[],
  controls: Controls,
  history: History,
  width: number,
): string[] {
  const [name, ...fixed] = view.fixed as [Column<unknown>, ...Column<unknown>[]];
  const chosen = [...fixed, ...(view.sets[columnsOf(view, controls)] ?? [])];
  const cells = chosen.map((column) => cellsOf(column, rows));
  const widths = cells.map((column) => Math.max(...column.map(lengthOf)));
  const names = cellsOf(name, rows);
  const longest = Math.max(...names.map(lengthOf));
  const taken = (count: number): number => widths.slice(0, count).reduce((sum, one) => sum + GAP + one, 0);
  const fitting = (forName: number): number => {
    let count = widths.length;
    while (count > 0 && forName + taken(count) > width) count -= 1;
    return count;
  };
  // Long names give way first, then columns, from the right.
  let forName = Math.min(longest, LONGEST_NAME);
  if (fitting(forName) < widths.length) forName = Math.min(longest, SHORTEST_NAME);
  const count = fitting(forName);
  // What is left is the curve's if it is enough for one, otherwise the name's.
  const hasCurve = width - taken(count) - forName >= GAP + SHORTEST_CURVE;
  if (!hasCurve) forName = Math.min(longest, width - taken(count));
  const left = width - taken(count) - forName - GAP;
  return names.map((text, line) => {
    const row = cells
      .slice(0, count)
      .map((column, index) => padStart(column[line] as string, (widths[index] as number) + GAP));
    const curve = line === 0 ? "RECENT" : history.curve(controls.view, view.id(rows[line - 1]), left);
    return `${padEnd(cut(text, forName), forName)}${row.join("")}  ${hasCurve ? curve : ""}`.trimEnd();
  });
}

function headOf({ pid, uptime, connections, bytesInFlight }: Figures): string {
  const clients = `${connections} ${connections === 1 ? "client" : "clients"}`;
  return `dmkit ${pid}  up ${duration(uptime)}  ${clients}  ${describeSize(bytesInFlight)} in flight`;
}

/** What is wrong with devices, and what helps. */
function illsOf({ devices }: Figures): string[] {
  const lines = devices.flatMap(({ name, health }) => healthLines(name, health));
  return lines.length === 0 ? [] : ["", ...lines];
}

/** Columns as wide as what is in them: the first to the left, numbers to the right. */
function grid<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string[] {
  const cells = columns.map((column) => cellsOf(column, rows));
  const widths = cells.map((column) => Math.max(...column.map(lengthOf)));
  return [undefined, ...rows].map((_, line) =>
    cells
      .map((column, index) => {
        const [text, width] = [column[line] as string, widths[index] as number];
        return index === 0 ? padEnd(text, width) : padStart(text, width);
      })
      .join("  ")
      .trimEnd(),
  );
}

/** The title, and what the column has of each row. */
function cellsOf<Row>({ title, cell }: Column<Row>, rows: readonly Row[]): string[] {
  return [title, ...rows.map((row) => printable(cell(row)))];
}

// In characters, as a terminal counts those of most scripts.

function lengthOf(text: string): number {
  return Array.from(text).length;
}

function padEnd(text: string, width: number): string {
  return text + " ".repeat(Math.max(0, width - lengthOf(text)));
}

function padStart(text: string, width: number): string {
  return " ".repeat(Math.max(0, width - lengthOf(text))) + text;
}

function cut(text: string, width: number): string {
  return lengthOf(text) <= width
    ? text
    : `${Array.from(text)
        .slice(0, Math.max(0, width - 1))
        .join("")}…`;
}

/** At spaces, as far as that goes; what follows is indented. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(/(?<=\S) (?=\S)/)) {
    if (line !== "" && lengthOf(line) + 1 + lengthOf(word) > width) {
      lines.push(line);
      line = `    ${word}`;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, line];
}
