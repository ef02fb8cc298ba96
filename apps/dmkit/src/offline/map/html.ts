/** A picture as one HTML file without anything from elsewhere: a drawing whose cells tell what is in them. */
import { describeSize } from "@dmkit/block-io";
import { type Grid, type NamedKind, type Picture, addressOf, share, undrawn } from "./cells.ts";

export const HTML_COLUMNS = 128;
export const HTML_ROWS = 64;

const CELL = 8;
const HEIGHT = 12;
const AXIS = 90;
const EMPTY = "#ffffff";

/** @param title what the image is. */
export function drawHtml(title: string, { kinds, grids }: Picture): string {
  const body = grids.map((grid) => strip(grid, kinds)).join("\n");
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>${escape(title)}</title>
<style>
body { font: 14px/1.5 system-ui, sans-serif; color: #212529; margin: 2em; max-width: ${AXIS + HTML_COLUMNS * CELL + 40}px }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin: 1.5em 0 .3em }
h2 small { float: right; font-weight: normal; color: #868e96 }
svg { width: 100%; height: auto; display: block } svg text { font: 9px system-ui, sans-serif; fill: #868e96 }
rect.frame { fill: none; stroke: #ced4da } rect:hover { stroke: #212529 }
ul { list-style: none; padding: 0 0 0 ${AXIS}px; display: flex; flex-wrap: wrap; gap: .3em 2em }
i { display: inline-block; width: 1em; height: 1em; border: 1px solid #212529; vertical-align: -.15em }
</style>
</head>
<body>
<h1>${escape(title)}</h1>
${body}
</body>
</html>
`;
}

function strip(grid: Grid, kinds: readonly NamedKind[]): string {
  const scale = `${describeSize(grid.cellBytes)} a cell, ${describeSize(grid.cellBytes * grid.columns)} a row`;
  const width = AXIS + grid.columns * CELL;
  const height = grid.rows * HEIGHT;
  return `<h2>${escape(grid.title)}: ${describeSize(grid.size)} <small>${scale}</small></h2>
<svg viewBox="0 0 ${width} ${height}" role="img">
<rect class="frame" x="${AXIS - 1}" y="0" width="${width - AXIS}" height="${height}"/>
${[...axis(grid), ...cells(grid, kinds)].join("\n")}
</svg>
<ul>
${legend(grid, kinds).join("\n")}
</ul>`;
}

function* axis(grid: Grid): Iterable<string> {
  for (let row = 0; row < grid.rows; row += 1) {
    const address = addressOf(grid, row);
    yield `<text x="${AXIS - 6}" y="${row * HEIGHT + 9}" text-anchor="end">${address}</text>`;
  }
}

/** Neighbours in a row that say the same are one rectangle. */
function* cells(grid: Grid, kinds: readonly NamedKind[]): Iterable<string> {
  for (let first = 0; first < grid.count; first += grid.columns) {
    const end = Math.min(grid.count, first + grid.columns);
    for (let cell = first; cell < end; ) {
      const start = cell;
      const what = contents(grid, kinds, start);
      do cell += 1;
      while (cell < end && contents(grid, kinds, cell) === what);
      const colour = kinds[grid.shown[start] ?? -1]?.colour ?? EMPTY;
      const x = AXIS + (start - first) * CELL;
      const y = (first / grid.columns) * HEIGHT;
      const from = start * grid.cellBytes;
      const to = Math.min(grid.size, cell * grid.cellBytes);
      const text = `${describeSize(from)} - ${describeSize(to)} (byte ${from}): ${what}`;
      yield `<rect x="${x}" y="${y}" width="${(cell - start) * CELL - 1}" height="${HEIGHT - 1}" fill="${escape(colour)}"><title>${escape(text)}</title></rect>`;
    }
  }
}

/** What lies in a cell, the most first. */
function contents(grid: Grid, kinds: readonly NamedKind[], cell: number): string {
  const whole = Math.min(grid.cellBytes, grid.size - cell * grid.cellBytes);
  const parts = kinds
    .map(({ meaning }, number) => ({ meaning, bytes: grid.bytes[cell * kinds.length + number] ?? 0 }))
    .filter(({ bytes }) => bytes > 0)
    .sort((a, b) => b.bytes - a.bytes);
  if (parts.length === 0) return "nothing";
  if (parts.length === 1 && parts[0]?.bytes === whole) return parts[0].meaning;
  return parts.map(({ meaning, bytes }) => `${meaning} ${share(bytes, whole)}`).join(", ");
}

function* legendItems(grid: Grid, kinds: readonly NamedKind[]): Iterable<[string, string, number]> {
  for (const [number, { colour, meaning }] of kinds.entries()) {
    const bytes = grid.totals[number] ?? 0;
    if (bytes > 0) yield [colour, meaning, bytes];
  }
  if (undrawn(grid) > 0) yield [EMPTY, "nothing", undrawn(grid)];
}

function legend(grid: Grid, kinds: readonly NamedKind[]): string[] {
  return [...legendItems(grid, kinds)].map(
    ([colour, meaning, bytes]) =>
      `<li><i style="background:${escape(colour)}"></i> ${escape(meaning)}: ${describeSize(bytes)} (${share(bytes, grid.size)})</li>`,
  );
}

function escape(text: string): string {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;")
    .replaceAll("'", "&#39;");
}
