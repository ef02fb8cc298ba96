/** The stack as a picture, and as a list of words for who does not see it. */
import type { StatusFeed } from "../feed.ts";
import { byId, html, redraw, svg } from "./dom.ts";
import { beginning, bytes, ending, exportName, rate, targetsOf } from "./format.ts";
import { lookOf, signs } from "./health.ts";
import { type Box, type Layout, columnsOf, layOut } from "./layout.ts";

// Pixels: of boxes, between them, and characters that have room in one.
const WIDTH = 176;
const HEIGHT = { export: 40, device: 74, leaf: 40 } as const;
const GAP = 16;
const STEP = 30;
const ROOM = 22;

export function showStack(feed: StatusFeed): void {
  const layout = layOut(feed);
  const rates = new Map((feed.figures?.devices ?? []).map((one) => [one.name, trafficOf(one)]));
  const told = layout.rows.map((row) =>
    row.map((box) => [box.key, box.below, linesOf(box, rates), lookOfBox(box)]),
  );
  redraw(byId("stack", HTMLDivElement), [told, layout.left], () => [
    draw(layout, rates),
    list(layout),
    ...(layout.left > 0 ? [html("p", {}, `${layout.left} more boxes have no room here.`)] : []),
  ]);
}

type Rates = ReadonlyMap<string, string>;

function trafficOf({
  read,
  write,
}: {
  readonly read: { readonly rate: number };
  readonly write: { readonly rate: number };
}): string {
  return `↓ ${rate(read.rate)}  ↑ ${rate(write.rate)}`;
}

function linesOf({ kind, name, device, condition = "ok" }: Box, rates: Rates): readonly string[] {
  if (kind === "export") return ["export", beginning(exportName(name), ROOM)];
  const state = `${signs[condition]} ${condition}`;
  if (device === undefined)
    return [condition === "ok" ? sort(name) : `${sort(name)} · ${state}`, ending(name, ROOM)];
  return [
    beginning(name, ROOM),
    beginning(`${targetsOf(device)} · ${bytes(device.size)}`, ROOM + 4),
    state,
    rates.get(name) ?? "",
  ];
}

/** What a table stands on that is no device with a name. */
function sort(reference: string): string {
  const [, scheme] = /^([a-z][a-z0-9+.-]*):/i.exec(reference) ?? [];
  return scheme === undefined ? "file" : scheme;
}

function lookOfBox({ kind, condition }: Box): string {
  return condition === undefined ? kind : `${kind} ${lookOf(condition)}`;
}

function draw({ rows }: Layout, rates: Rates): SVGSVGElement {
  const columns = columnsOf(rows);
  const width = (Math.max(0, ...columns.values()) + 1) * (WIDTH + GAP) - GAP;
  const places = new Map<string, { readonly x: number; readonly y: number; readonly height: number }>();
  let y = 1;
  for (const row of rows) {
    for (const { key, kind } of row) {
      places.set(key, { x: (columns.get(key) ?? 0) * (WIDTH + GAP), y, height: HEIGHT[kind] });
    }
    y += Math.max(0, ...row.map(({ kind }) => HEIGHT[kind])) + STEP;
  }
  const boxes = rows.flat();
  const lines = boxes.flatMap(({ key, below }) => {
    const from = places.get(key);
    return below.flatMap((other) => {
      const to = places.get(other);
      return from === undefined || to === undefined ? [] : [line(from, to)];
    });
  });
  const height = Math.max(1, y - STEP + 1);
  return svg(
    "svg",
    { viewBox: `-1 0 ${width + 2} ${height}`, width: width + 2, height, "aria-hidden": "true" },
    ...lines,
    ...boxes.map((box) => drawBox(box, places.get(box.key) ?? { x: 0, y: 0 }, rates)),
  );
}

function line(
  from: { readonly x: number; readonly y: number; readonly height: number },
  to: { readonly x: number; readonly y: number },
): SVGPathElement {
  const [x1, y1, x2, y2] = [from.x + WIDTH / 2, from.y + from.height, to.x + WIDTH / 2, to.y];
  const bend = (y2 - y1) / 2;
  return svg("path", { class: "line", d: `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}` });
}

function drawBox(box: Box, { x, y }: { readonly x: number; readonly y: number }, rates: Rates): SVGGElement {
  const lines = linesOf(box, rates);
  return svg(
    "g",
    { class: `box ${lookOfBox(box)}` },
    svg("title", {}, box.kind === "export" ? exportName(box.name) : box.name),
    svg("rect", { x, y, width: WIDTH, height: HEIGHT[box.kind], rx: box.kind === "leaf" ? 2 : 8 }),
    ...lines.map((text, number) =>
      svg("text", { x: x + WIDTH / 2, y: y + 17 + number * 17, class: `line-${number}` }, text),
    ),
  );
}

/** The same in words. */
function list({ rows }: Layout): HTMLUListElement {
  const boxes = rows.flat();
  const names = new Map(
    boxes.map((box) => [box.key, box.kind === "export" ? exportName(box.name) : box.name]),
  );
  return html(
    "ul",
    { class: "sr" },
    ...boxes.flatMap(({ kind, key, device, condition, below }) => {
      if (kind === "leaf") return [];
      const on = below.map((other) => names.get(other) ?? other.slice(other.indexOf(" ") + 1));
      const what =
        device === undefined ? "export" : `${targetsOf(device)}, ${bytes(device.size)}, ${condition}`;
      const verb = kind === "export" ? "shows" : "stands on";
      return [
        html("li", {}, `${names.get(key)} (${what})${on.length === 0 ? "" : ` ${verb} ${on.join(", ")}`}`),
      ];
    }),
  );
}
