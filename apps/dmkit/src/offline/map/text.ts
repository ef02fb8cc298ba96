/** A picture as text: one character a cell, the address of each row at its start, the legend below. */
import { describeSize, printable } from "@dmkit/block-io";
import { type Grid, type Picture, addressOf, share, undrawn } from "./cells.ts";

export const TEXT_COLUMNS = 64;
export const TEXT_ROWS = 32;

export function drawText({ kinds, grids }: Picture): string {
  const lines: string[] = [];
  // What is not drawn must not look like a kind.
  const empty = kinds.some(({ character }) => character === ".") ? " " : ".";
  for (const grid of grids) {
    lines.push(
      `${printable(grid.title)}: ${describeSize(grid.size)}, ${describeSize(grid.cellBytes)} a character`,
    );
    lines.push(
      ...rows(
        grid,
        kinds.map(({ character }) => character),
        empty,
      ),
      "",
    );
    for (const [number, { character, meaning }] of kinds.entries()) {
      const bytes = grid.totals[number] ?? 0;
      if (bytes > 0) lines.push(legendLine(character, meaning, bytes, grid.size));
    }
    if (undrawn(grid) > 0) lines.push(legendLine(empty, "nothing", undrawn(grid), grid.size));
    lines.push("");
  }
  return lines.join("\n");
}

function rows(grid: Grid, characters: readonly string[], empty: string): string[] {
  const { columns, count, shown } = grid;
  const lines: string[] = [];
  for (let first = 0; first < count; first += columns) {
    const cells = [...shown.subarray(first, Math.min(count, first + columns))];
    const text = cells.map((kind) => (kind < 0 ? empty : (characters[kind] ?? "?"))).join("");
    lines.push(`${addressOf(grid, first / columns).padStart(12)}  ${text}`);
  }
  return lines;
}

function legendLine(character: string, meaning: string, bytes: number, size: number): string {
  return `  ${character}  ${meaning}: ${describeSize(bytes)} (${share(bytes, size)})`;
}
