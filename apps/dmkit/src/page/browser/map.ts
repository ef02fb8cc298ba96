/**
 * The map: each device as a strip of the segments of its table; how much of its cache is dirty, which segments of a log
 * wait to be written back, and how much of each layer is used; below that all that its targets say. Bounded: of a stack of thousands the first are shown, and that there are
 * more is said.
 */
import type { FeedDevice, StatusFeed } from "../feed.ts";
import { byId, fillTable, html, redraw, setText, svg } from "./dom.ts";
import { bytes, percent } from "./format.ts";

const MOST_DEVICES = 40;
const MOST_SEGMENTS = 64;
const MOST_LAYERS = 32;
const SECTOR = 512;

// A strip is as wide as there is room: this is the whole of it.
const WIDTH = 1000;
// So that what is small is seen at all.
const SLIVER = 4;
const COLOURS = 6;

type Segment = FeedDevice["segments"][number];

/** A strip, and the words below it. Parts are shares of the whole. */
interface Drawn {
  readonly parts: readonly { readonly from: number; readonly share: number; readonly look: string }[];
  readonly text: string;
}

const drawn = new Map<string, HTMLElement>();

export function showMap({ devices }: StatusFeed): void {
  const shown = devices.slice(0, MOST_DEVICES);
  const place = byId("map", HTMLDivElement);
  for (const [name, article] of drawn) {
    if (shown.some((one) => one.name === name)) continue;
    article.remove();
    drawn.delete(name);
  }
  for (const device of shown) {
    let article = drawn.get(device.name);
    if (article === undefined) {
      article = makeArticle(device.name);
      drawn.set(device.name, article);
      place.append(article);
    }
    fillArticle(article, device);
  }
  const more = devices.length - shown.length;
  setText(byId("map-more", HTMLParagraphElement), more > 0 ? `${more} more devices are not drawn.` : "");
}

function makeArticle(name: string): HTMLElement {
  const facts = html("div", {
    class: "wide facts",
    role: "group",
    "aria-label": `What ${name} says`,
    tabindex: 0,
  });
  return html(
    "article",
    {},
    html("h3", {}, name),
    html("div", { class: "strips" }),
    html("details", {}, html("summary", {}, "What it says of itself"), facts),
  );
}

function fillArticle(article: HTMLElement, device: FeedDevice): void {
  const [, strips, details] = article.children;
  const facts = details?.lastElementChild;
  if (strips === undefined || !facts) return;
  const { name, size, table, segments, watched } = device;
  const { dirty_bytes: dirty, capacity_bytes: capacity } = watched;
  const inside = segments.slice(0, MOST_SEGMENTS).flatMap((segment) => [logOf(segment), layersOf(segment)]);
  redraw(strips, [size, table, segments.length, dirty, capacity, inside], () => [
    ...segmentStrip(device),
    ...(dirty === undefined || !capacity ? [] : cacheStrip(dirty, capacity)),
    ...inside.flat().flatMap(({ parts, text }) => [strip(parts), html("p", {}, text)]),
  ]);
  const told = segments
    .slice(0, MOST_SEGMENTS)
    .flatMap(({ fields }, index) =>
      Object.entries(fields).map(([key, value]) => [
        { text: segments.length > 1 ? `${index + 1}: ${key}` : key },
        { text: String(value), number: true },
      ]),
    );
  fillTable(facts, `What ${name} says of itself`, [{ text: "Name" }, { text: "Value", number: true }], told);
}

function segmentStrip({ size, table, segments }: FeedDevice): Node[] {
  const sectors = Math.max(1, size / SECTOR);
  const lines = table.split("\n");
  const shown = segments.slice(0, MOST_SEGMENTS);
  const parts = shown.map(({ start, length }, index) => ({
    from: start / sectors,
    share: length / sectors,
    look: `part-${index % COLOURS}`,
  }));
  return [
    strip(parts),
    html(
      "ol",
      { class: "parts" },
      ...shown.map(({ start, length, target }, index) => {
        const where = `${bytes(start * SECTOR)} to ${bytes((start + length) * SECTOR)}: `;
        const rest = (lines[index] ?? "").split(" ").slice(3).join(" ");
        return html(
          "li",
          { class: `part-${index % COLOURS}` },
          where,
          html("code", {}, `${target} ${rest}`.trim()),
        );
      }),
    ),
    ...(segments.length > shown.length
      ? [html("p", {}, `${segments.length - shown.length} more segments.`)]
      : []),
  ];
}

function cacheStrip(dirty: number, capacity: number): Node[] {
  const share = Math.min(1, dirty / capacity);
  return [
    strip([{ from: 0, share: 1, look: "clean" }, ...(dirty > 0 ? [{ from: 0, share, look: "dirty" }] : [])]),
    html(
      "p",
      {},
      `Cache of ${bytes(capacity)}: ${percent(share)} dirty (${bytes(dirty)}), the rest clean or free.`,
    ),
  ];
}

/** The ring of a log, slot after slot: those between what is written back and what is on the cache device. */
function logOf({ fields }: Segment): Drawn[] {
  const [count, last, home] = ["segments", "last_flushed_id", "last_writeback_id"].map((key) => fields[key]);
  if (typeof count !== "number" || typeof last !== "number" || typeof home !== "number") return [];
  const waiting = Math.min(count, Math.max(0, last - home));
  const from = home % count;
  const before = Math.min(waiting, count - from);
  const dirty = [
    { from: from / count, share: before / count, look: "dirty" },
    { from: 0, share: (waiting - before) / count, look: "dirty" },
  ];
  const parts = [{ from: 0, share: 1, look: "clean" }, ...dirty.filter(({ share }) => share > 0)];
  const where = waiting === 0 ? "" : `, from ${from + 1} on`;
  return [{ parts, text: `Log of ${count} segments: ${waiting} wait to be written back${where}.` }];
}

/** From the top down, as reads go. */
function layersOf({ length, fields }: Segment): Drawn[] {
  const used = Object.entries(fields).flatMap(([key, value]) => {
    const [, number] = /^allocated_sectors_(\d+)$/.exec(key) ?? [];
    return number === undefined || typeof value !== "number" ? [] : [[Number(number), value] as const];
  });
  return used
    .toSorted(([a], [b]) => b - a)
    .slice(0, MOST_LAYERS)
    .map(([number, sectors], index) => ({
      parts: [
        { from: 0, share: 1, look: "clean" },
        ...(sectors > 0 ? [{ from: 0, share: sectors / length, look: `part-${number % COLOURS}` }] : []),
      ],
      text: `Layer ${number}${index === 0 ? ", the top" : ""}: ${bytes(sectors * SECTOR)} of ${bytes(length * SECTOR)}.`,
    }));
}

/** The words below it say the same. */
function strip(parts: Drawn["parts"]): SVGSVGElement {
  return svg(
    "svg",
    { class: "strip", viewBox: `0 0 ${WIDTH} 10`, preserveAspectRatio: "none", "aria-hidden": "true" },
    ...parts.map(({ from, share, look }) =>
      svg("rect", { class: look, x: from * WIDTH, y: 0, width: Math.max(SLIVER, share * WIDTH), height: 10 }),
    ),
  );
}
