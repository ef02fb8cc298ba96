/**
 * A picture as PNG. From top to bottom: the title, then for each strip its name, the grid with addresses at its
 * left, and a legend with what each kind amounts to.
 */
import { describeSize } from "@dmkit/block-io";
import { Canvas, lineHeight } from "./canvas.ts";
import { type Grid, type NamedKind, type Picture, addressOf, share, undrawn } from "./cells.ts";
import { drawable, textWidth } from "./font.ts";

export const PNG_COLUMNS = 128;
/** Rows of all strips together, at most. */
export const PNG_ROWS = 64;

const MARGIN = 16;
const AXIS = 112;
const CELL_WIDTH = 8;
const SCALE = 2;
const TITLE_SCALE = 3;
const INK = "#212529";
const FAINT = "#868e96";
const PAPER = "#ffffff";
const EMPTY = "#ffffff";
const FRAME = "#ced4da";
const LINE = 24;
const SWATCH = 16;

const WIDTH = MARGIN + AXIS + PNG_COLUMNS * CELL_WIDTH + MARGIN;

interface LegendItem {
  readonly colour: string;
  readonly text: string;
}

/** @param title what the image is. */
export function drawPng(title: string, picture: Picture): Uint8Array {
  const strips = picture.grids.map((grid) => ({ grid, legend: legendLines(legendOf(grid, picture.kinds)) }));
  const titleHeight = lineHeight(TITLE_SCALE) + MARGIN;
  const height = strips.reduce(
    (sum, { grid, legend }) => sum + heightOf(grid, legend.length),
    MARGIN + titleHeight,
  );
  const canvas = new Canvas(WIDTH, height, PAPER);
  canvas.text(MARGIN, MARGIN, fitting(title, WIDTH - 2 * MARGIN, TITLE_SCALE), INK, TITLE_SCALE);
  let top = MARGIN + titleHeight;
  for (const { grid, legend } of strips) {
    drawStrip(canvas, top, grid, picture.kinds, legend);
    top += heightOf(grid, legend.length);
  }
  return canvas.png();
}

/** Pixels of a cell: few rows are drawn high. */
function cellHeight({ rows }: Grid): number {
  return rows <= 2 ? 24 : rows <= 8 ? 16 : 12;
}

function heightOf(grid: Grid, legendRows: number): number {
  return LINE + grid.rows * cellHeight(grid) + 8 + legendRows * LINE + 2 * MARGIN;
}

function drawStrip(
  canvas: Canvas,
  top: number,
  grid: Grid,
  kinds: readonly NamedKind[],
  legend: readonly (readonly LegendItem[])[],
): void {
  const row = `${describeSize(grid.cellBytes)} a cell, ${describeSize(grid.cellBytes * grid.columns)} a row`;
  const right = WIDTH - MARGIN;
  canvas.textBefore(right, top, row, FAINT, SCALE);
  const name = `${grid.title}: ${describeSize(grid.size)}`;
  canvas.text(MARGIN, top, fitting(name, right - MARGIN - textWidth(row, SCALE) - 24, SCALE), INK, SCALE);
  drawGrid(canvas, top + LINE, grid, kinds);
  let at = top + LINE + grid.rows * cellHeight(grid) + 8;
  for (const line of legend) {
    let x = MARGIN + AXIS;
    for (const { colour, text } of line) {
      canvas.fill(x, at, SWATCH, SWATCH, INK);
      canvas.fill(x + 1, at + 1, SWATCH - 2, SWATCH - 2, colour);
      canvas.text(x + SWATCH + 6, at + 1, text, INK, SCALE);
      x += itemWidth(text);
    }
    at += LINE;
  }
}

function drawGrid(canvas: Canvas, top: number, grid: Grid, kinds: readonly NamedKind[]): void {
  const height = cellHeight(grid);
  const left = MARGIN + AXIS;
  // Not every row has room for its address.
  const every = Math.ceil((lineHeight(SCALE) + 4) / height);
  // What is not drawn is paper: the frame shows where the device is.
  canvas.fill(left - 1, top - 1, PNG_COLUMNS * CELL_WIDTH + 1, grid.rows * height + 1, FRAME);
  canvas.fill(left, top, PNG_COLUMNS * CELL_WIDTH - 1, grid.rows * height - 1, PAPER);
  for (let row = 0; row < grid.rows; row += 1) {
    const y = top + row * height;
    if (row % every === 0) {
      const address = addressOf(grid, row);
      canvas.textBefore(left - 8, y - (height < 16 ? 1 : 0), address, FAINT, SCALE);
    }
    for (let column = 0; column < grid.columns; column += 1) {
      const cell = row * grid.columns + column;
      if (cell >= grid.count) break;
      const kind = kinds[grid.shown[cell] ?? -1];
      // A gap between cells as long as they are few: then each can be counted.
      canvas.fill(left + column * CELL_WIDTH, y, CELL_WIDTH - 1, height - 1, kind?.colour ?? EMPTY);
    }
  }
}

function legendOf(grid: Grid, kinds: readonly NamedKind[]): LegendItem[] {
  const amount = (bytes: number): string => `${describeSize(bytes)} (${share(bytes, grid.size)})`;
  const items = kinds.flatMap(({ colour, meaning }, number) => {
    const bytes = grid.totals[number] ?? 0;
    return bytes > 0 ? [{ colour, text: `${meaning}: ${amount(bytes)}` }] : [];
  });
  const rest = undrawn(grid);
  return rest > 0 ? [...items, { colour: EMPTY, text: `nothing: ${amount(rest)}` }] : items;
}

/** As many items in a line as fit. */
function legendLines(items: readonly LegendItem[]): LegendItem[][] {
  const lines: LegendItem[][] = [];
  let room = 0;
  for (const item of items) {
    const width = itemWidth(item.text);
    if (width > room) {
      lines.push([]);
      room = WIDTH - MARGIN - AXIS - MARGIN;
    }
    lines.at(-1)?.push(item);
    room -= width;
  }
  return lines;
}

function itemWidth(text: string): number {
  return SWATCH + 6 + textWidth(text, SCALE) + 24;
}

/** The end of a path says more than its start. */
function fitting(text: string, width: number, scale: number): string {
  const plain = drawable(text);
  if (textWidth(plain, scale) <= width) return plain;
  const most = Math.max(4, Math.floor(width / textWidth("x", scale)));
  return `...${plain.slice(plain.length - most + 3)}`;
}
