/** What `dmkit top` has seen: requests a second of every row of every table, for the curves beside them. */
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
