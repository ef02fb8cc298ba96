/**
 * What `dmkit top` has seen: requests a second of every row of every table, for the curves beside them. What a server with
 * a page has kept of its devices comes before that.
 */
import type { Series } from "../page/ring.ts";
import { type ViewName, views } from "./columns.ts";
import type { Figures } from "./figures.ts";

// As many as a wide terminal shows.
const LOOKS = 120;

const bars = "▁▂▃▄▅▆▇█";

export class History {
  readonly #seen: Map<string, number[]> = new Map();

  /** Takes down one look; what is gone is forgotten. */
  add(figures: Figures): void {
    const known = new Set<string>();
    for (const [name, view] of Object.entries(views)) {
      for (const row of view.rows(figures)) {
        const key = `${name} ${view.id(row)}`;
        known.add(key);
        const values = this.#seen.get(key) ?? [];
        values.push(view.requests(row));
        if (values.length > LOOKS) values.shift();
        this.#seen.set(key, values);
      }
    }
    for (const key of this.#seen.keys()) if (!known.has(key)) this.#seen.delete(key);
  }

  /** Takes what was kept of a device before the first look. @param interval milliseconds between two looks. */
  begin(device: string, { interval: step, values: { readIops, writeIops } }: Series, interval: number): void {
    const each = Math.max(1, Math.round(interval / step));
    const requests = readIops.map((reads, index) => (reads ?? 0) + (writeIops[index] ?? 0));
    const looks: number[] = [];
    // From the newest back: what does not fill a look is the oldest.
    for (let end = requests.length; end >= each && looks.length < LOOKS; end -= each)
      looks.unshift(requests.slice(end - each, end).reduce((sum, one) => sum + one, 0) / each);
    this.#seen.set(`devices ${device}`, looks);
  }

  /** The newest look to the right; as wide as there is something to show, at most `width`. */
  curve(view: ViewName, id: string, width: number): string {
    return curveOf((this.#seen.get(`${view} ${id}`) ?? []).slice(-Math.max(1, width)));
  }
}

/** Each value as a bar, the highest as high as can be; nothing at all is a space. */
export function curveOf(values: readonly number[]): string {
  const highest = Math.max(...values, 0);
  return values
    .map((value) =>
      value <= 0 ? " " : bars[Math.min(bars.length - 1, Math.floor((value / highest) * bars.length))],
    )
    .join("");
}
