/** What keys do to `dmkit top`: which table is shown, with which columns, in which order, and whether it stands still. */
import { type View, type ViewName, views } from "./columns.ts";

/** In which order rows are shown. */
export const orders = ["as made", "requests", "bytes", "slowest", "name"] as const;

export interface Controls {
  readonly view: ViewName;
  /** Counted from 0; of whichever view is shown, modulo how many it has. */
  readonly columns: number;
  readonly order: (typeof orders)[number];
  readonly paused: boolean;
  readonly help: boolean;
  /** The first row that is shown. */
  readonly from: number;
}

export const initialControls: Controls = {
  view: "devices",
  columns: 0,
  order: "as made",
  paused: false,
  help: false,
  from: 0,
};

/** Keys, and what they do. */
export const help: readonly (readonly [key: string, does: string])[] = [
  ["d  e  l", "devices, exports, clients; Tab: the next of them"],
  ["c", "other columns"],
  ["s", `other order: ${orders.join(", ")}`],
  ["up  down", "other rows, where there are more than lines"],
  ["p", "stand still, go on"],
  ["h  ?", "this"],
  ["q", "end"],
];

const UP = "\u001b[A";
const DOWN = "\u001b[B";
const CTRL_C = "\u0003";

/** The keys in what a terminal has sent. */
export function keysOf(text: string): readonly string[] {
  // eslint-disable-next-line no-control-regex -- that is what keys are.
  return text.match(/\u001b\[[0-9;]*[A-Za-z~]|./gsu) ?? [];
}

/** @param key as {@link keysOf} has it. Undefined: the end. */
export function pressed(controls: Controls, key: string): Controls | undefined {
  const { view, columns, order, paused, from } = controls;
  // Whatever is pressed, help goes.
  const shown = { ...controls, help: false };
  switch (key) {
    case "q":
    case "Q":
    case CTRL_C:
      return undefined;
    case "d":
      return { ...shown, view: "devices", from: 0 };
    case "e":
      return { ...shown, view: "exports", from: 0 };
    case "l":
      return { ...shown, view: "clients", from: 0 };
    case "\t":
      return { ...shown, view: next(Object.keys(views) as ViewName[], view), from: 0 };
    case "c":
      return { ...shown, columns: columns + 1 };
    case "s":
      return { ...shown, order: next(orders, order) };
    case "p":
    case " ":
      return { ...shown, paused: !paused };
    case UP:
    case "k":
      return { ...shown, from: Math.max(0, from - 1) };
    case DOWN:
    case "j":
      return { ...shown, from: from + 1 };
    case "h":
    case "?":
      return { ...controls, help: !controls.help };
    default:
      return shown;
  }
}

/** The name of the columns that are shown. */
export function columnsOf<Row>({ sets }: View<Row>, { columns }: Controls): string {
  const names = Object.keys(sets);
  return names[columns % names.length] as string;
}

/** The rows in the order that was asked for. */
export function ordered<Row>(view: View<Row>, rows: readonly Row[], { order }: Controls): readonly Row[] {
  const by = { requests: view.requests, bytes: view.bytes, slowest: view.slowness };
  if (order === "as made") return rows;
  if (order === "name") {
    const nameOf = view.fixed[0]?.cell ?? view.id;
    return rows.toSorted((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
  }
  return rows.toSorted((a, b) => by[order](b) - by[order](a));
}

function next<Value>(all: readonly Value[], one: Value): Value {
  return all[(all.indexOf(one) + 1) % all.length] as Value;
}
