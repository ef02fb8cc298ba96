/** Charts of one device over a span of time, and the same as a table. */
import uPlot from "uplot";
import type { Column, Series, Span } from "../ring.ts";
import { byId, fillTable, html, setText } from "./dom.ts";
import { clock, count, latency, percent, rate } from "./format.ts";

/** Two colours that everybody can tell apart, and dashes for the second line of one: see page.css. */
interface Line {
  readonly column: Column;
  readonly label: string;
  readonly colour: "first" | "second";
  readonly dashed?: boolean;
}

interface Chart {
  readonly title: string;
  readonly lines: readonly Line[];
  readonly show: (value: number | undefined) => string;
  /** Shares end at all of it. */
  readonly most?: number;
  /** Distances of the lines behind it, where those of tens are not round. */
  readonly steps?: readonly number[];
}

const charts: readonly Chart[] = [
  {
    title: "Requests a second",
    lines: [
      { column: "readIops", label: "read", colour: "first" },
      { column: "writeIops", label: "write", colour: "second" },
    ],
    show: count,
  },
  {
    title: "Throughput",
    lines: [
      { column: "readRate", label: "read", colour: "first" },
      { column: "writeRate", label: "write", colour: "second" },
    ],
    show: rate,
    steps: Array.from({ length: 50 }, (_, exponent) => 2 ** exponent),
  },
  {
    title: "Latency",
    lines: [
      { column: "readP50", label: "read p50", colour: "first" },
      { column: "readP99", label: "read p99", colour: "first", dashed: true },
      { column: "writeP50", label: "write p50", colour: "second" },
      { column: "writeP99", label: "write p99", colour: "second", dashed: true },
    ],
    show: latency,
  },
  {
    title: "Cache",
    lines: [
      { column: "hits", label: "hits", colour: "first" },
      { column: "dirty", label: "dirty", colour: "second" },
    ],
    show: percent,
    most: 1,
  },
];

/** Milliseconds. */
const lengths: Readonly<Record<Span, number>> = { "5min": 300_000, "1h": 3_600_000, "24h": 86_400_000 };

export const spanNames: Readonly<Record<Span, string>> = {
  "5min": "5 minutes",
  "1h": "1 hour",
  "24h": "24 hours",
};

const intervals: Readonly<Record<Span, string>> = {
  "5min": "second",
  "1h": "10 seconds",
  "24h": "5 minutes",
};

const HEIGHT = 170;

/** A chart with what stands around it. */
class Drawn {
  readonly figure: HTMLElement = html("figure");
  readonly #chart: Chart;
  readonly #keys: readonly HTMLElement[];
  readonly #plot: HTMLElement = html("div", { class: "plot", role: "img" });
  #drawing: uPlot | undefined;
  #data: uPlot.AlignedData = [[]];

  constructor(chart: Chart) {
    this.#chart = chart;
    this.#keys = chart.lines.map(() => html("span"));
    const caption = html(
      "figcaption",
      {},
      html("h3", {}, chart.title),
      html(
        "ul",
        { class: "keys" },
        ...chart.lines.map(({ label, colour, dashed }, index) =>
          html(
            "li",
            { class: `${colour}${dashed === true ? " dashed" : ""}` },
            `${label} `,
            this.#keys[index] ?? "",
          ),
        ),
      ),
    );
    this.figure.append(caption, this.#plot);
    new ResizeObserver(() => this.#drawing?.setSize(this.#size())).observe(this.#plot);
  }

  show(device: string, span: Span, { time, values }: Series, now: number): void {
    const { lines, show } = this.#chart;
    const columns = lines.map(({ column }) => values[column]);
    // A cache there is not has no chart.
    this.figure.hidden =
      this.#chart.most !== undefined && columns.every((one) => one.every((value) => value === null));
    this.#data = [time.map((at) => at / 1000), ...columns.map((one) => [...one])] as uPlot.AlignedData;
    this.#drawing ??= this.#draw();
    this.#drawing.setData(this.#data, false);
    this.#drawing.setScale("x", { min: (now - lengths[span]) / 1000, max: now / 1000 });
    this.#tell(undefined);
    const last = lines
      .map(({ label }, index) => `${label} ${show(columns[index]?.at(-1) ?? undefined)}`)
      .join(", ");
    this.#plot.setAttribute(
      "aria-label",
      `${this.#chart.title} of ${device} over ${spanNames[span]}: now ${last}`,
    );
  }

  /** Colours may have changed; a page that stands still gets no other reason to draw. */
  recolour(): void {
    const { min, max } = this.#drawing?.scales["x"] ?? {};
    if (typeof min !== "number" || typeof max !== "number") return;
    this.#drawing?.destroy();
    this.#drawing = this.#draw();
    this.#drawing.setScale("x", { min, max });
  }

  /** The values at a sample, or the last ones. */
  #tell(at: number | undefined): void {
    for (const [index, key] of this.#keys.entries()) {
      const values = this.#data[index + 1];
      setText(key, this.#chart.show(values?.at(at ?? -1) ?? undefined));
    }
  }

  #size(): { width: number; height: number } {
    return { width: Math.max(100, this.#plot.clientWidth), height: HEIGHT };
  }

  #draw(): uPlot {
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string): string => style.getPropertyValue(`--${name}`).trim();
    const { lines, show, most, steps } = this.#chart;
    const axis = {
      stroke: colour("quiet"),
      grid: { stroke: colour("grid"), width: 1 },
      ticks: { stroke: colour("grid"), width: 1 },
      font: "12px system-ui, sans-serif",
    };
    return new uPlot(
      {
        ...this.#size(),
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false } },
        scales: {
          x: { time: true, auto: false },
          y: { range: (_plot, _min, max) => [0, most ?? Math.max(1.1 * (max || 0), 1)] },
        },
        axes: [
          { ...axis, space: 60, values: (_plot, at) => at.map((value) => clock(value * 1000).slice(0, 5)) },
          {
            ...axis,
            size: 66,
            space: 24,
            ...(steps && { incrs: [...steps] }),
            values: (_plot, at) => at.map(show),
          },
        ],
        series: [
          {},
          ...lines.map(({ label, colour: name, dashed }) => ({
            label,
            stroke: colour(name),
            width: 2,
            points: { show: false },
            ...(dashed === true ? { dash: [6, 4] } : {}),
          })),
        ],
        hooks: { setCursor: [(plot) => this.#tell(plot.cursor.idx ?? undefined)] },
      },
      this.#data,
      this.#plot,
    );
  }
}

const all = charts.map((chart) => new Drawn(chart));

/** Puts the charts on the page. */
export function openCharts(): void {
  byId("charts", HTMLDivElement).append(...all.map(({ figure }) => figure));
  // Colours follow the system, also while the page is open.
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const one of all) one.recolour();
  });
}

/** @param now milliseconds since 1970, as the server has it. */
export function showCharts(device: string, span: Span, series: Series | undefined, now: number): void {
  const none = byId("no-history", HTMLParagraphElement);
  none.hidden = series !== undefined && series.time.length > 0;
  byId("charts", HTMLDivElement).hidden = series === undefined;
  const soon = `A sample is taken every ${intervals[span]}: the first of this device is to come.`;
  setText(none, device === "" ? "There are no devices." : soon);
  if (series === undefined) return;
  for (const one of all) one.show(device, span, series, now);
  const rows = charts.flatMap(({ title, lines, show }) =>
    lines.flatMap(({ column, label }) => {
      const values = series.values[column].filter((value) => value !== null);
      if (values.length === 0) return [];
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      const cells = [series.values[column].at(-1) ?? undefined, mean, Math.max(...values)];
      return [
        [{ text: `${title}: ${label}` }, ...cells.map((value) => ({ text: show(value), number: true }))],
      ];
    }),
  );
  const titles = [{ text: "" }, ...["Now", "Mean", "Most"].map((text) => ({ text, number: true }))];
  fillTable(byId("summary", HTMLDivElement), `${device} over ${spanNames[span]}`, titles, rows);
}
