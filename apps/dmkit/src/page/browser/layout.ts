/**
 * Where the boxes of the stack stand: exports at the top, what they show below, files and servers at the bottom; each box
 * lower than all that stand on it, as near to them as the others let it.
 */
import type { FeedDevice, StatusFeed } from "../feed.ts";
import { type Condition, conditionOf } from "./health.ts";

/** At most so many boxes are drawn. */
export const MOST_BOXES = 80;

export interface Box {
  readonly key: string;
  readonly kind: "export" | "device" | "leaf";
  readonly name: string;
  readonly device: FeedDevice | undefined;
  /** How it is, as far as it is known. */
  readonly condition: Condition | undefined;
  /** Keys of the boxes it stands on. */
  readonly below: readonly string[];
}

export interface Layout {
  /** From the top; each from left to right. */
  readonly rows: readonly (readonly Box[])[];
  /** Boxes that had no room. */
  readonly left: number;
}

export function layOut({ devices, exports }: Pick<StatusFeed, "devices" | "exports">): Layout {
  const all = boxesOf(devices, exports);
  const boxes = new Map([...all].slice(0, MOST_BOXES));
  const depth = depthsOf(boxes);
  const rows: Box[][] = [];
  for (const box of boxes.values()) (rows[depth.get(box.key) ?? 0] ??= []).push(box);
  const full = rows.filter((row) => row !== undefined);
  return { rows: straightened(full), left: all.size - boxes.size };
}

/** By key; what stands on something is before it. */
function boxesOf(devices: readonly FeedDevice[], exports: StatusFeed["exports"]): ReadonlyMap<string, Box> {
  const byName = new Map(devices.map((device) => [device.name, device]));
  const boxes = new Map<string, Box>();
  const add = (box: Box): void => void boxes.set(box.key, box);
  const addDevice = (device: FeedDevice): void => {
    const key = `device ${device.name}`;
    if (boxes.has(key)) return;
    const named = (reference: string): FeedDevice | undefined =>
      reference.startsWith("dm:") ? byName.get(reference.slice(3)) : undefined;
    const keyOf = (reference: string): string => {
      const lower = named(reference);
      if (lower !== undefined) return `device ${lower.name}`;
      // What is in memory is another one for each who says it.
      return /^(mem|null):/.test(reference) ? `leaf ${device.name} ${reference}` : `leaf ${reference}`;
    };
    const below = device.standsOn.map(keyOf);
    add({ key, kind: "device", name: device.name, device, condition: conditionOf(device), below });
    for (const reference of device.standsOn) {
      const lower = named(reference);
      if (lower !== undefined) addDevice(lower);
      else {
        const condition = device.below.find(({ name }) => name === reference)?.health.state;
        add({
          key: keyOf(reference),
          kind: "leaf",
          name: reference,
          device: undefined,
          condition,
          below: [],
        });
      }
    }
  };
  for (const { name, device } of exports) {
    const below = byName.get(device);
    add({
      key: `export ${name}`,
      kind: "export",
      name,
      device: undefined,
      condition: undefined,
      below: below === undefined ? [] : [`device ${device}`],
    });
    if (below !== undefined) addDevice(below);
  }
  for (const device of devices) {
    if (!device.holders.some(({ kind }) => kind === "device")) addDevice(device);
  }
  // Whatever is left stands below what has no room, or was not told of.
  for (const device of devices) addDevice(device);
  return boxes;
}

/** How many boxes stand on each, one on another. */
function depthsOf(boxes: ReadonlyMap<string, Box>): ReadonlyMap<string, number> {
  const depths = new Map<string, number>();
  // One that is told to stand on itself, between two looks, is not followed round and round.
  const sink = (box: Box, depth: number): void => {
    if (depth > boxes.size || (depths.get(box.key) ?? -1) >= depth) return;
    depths.set(box.key, depth);
    for (const key of box.below) {
      const below = boxes.get(key);
      if (below !== undefined) sink(below, depth + 1);
    }
  };
  for (const box of boxes.values()) sink(box, box.kind === "export" ? 0 : (depths.get(box.key) ?? 1));
  return depths;
}

/**
 * Where the boxes of a row stand, as a number of box widths from the left: below the middle of what stands on them, if the
 * others leave room.
 */
export function columnsOf(rows: readonly (readonly Box[])[]): ReadonlyMap<string, number> {
  const places = new Map<string, number>();
  let above: readonly Box[] = [];
  for (const row of rows) {
    const wishes = row.map(({ key }, index) => {
      const over = above
        .filter(({ below }) => below.includes(key))
        .map((box) => places.get(box.key) ?? index);
      return over.length === 0 ? undefined : mean(over);
    });
    let free = Number.NEGATIVE_INFINITY;
    const found = wishes.map((wish, index) => {
      free = Math.max(free, wish ?? (free === Number.NEGATIVE_INFINITY ? index : free));
      const place = free;
      free += 1;
      return place;
    });
    // Those that had to give way all did so to the right: the row goes back by what they did so on average.
    const pushed = mean(found.map((place, index) => place - (wishes[index] ?? place)));
    for (const [index, { key }] of row.entries()) places.set(key, (found[index] ?? index) - pushed);
    above = [...above, ...row];
  }
  const least = Math.min(...places.values());
  return new Map([...places].map(([key, place]) => [key, place - least]));
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
}

/** Each row in the order of what stands on it, so that few lines cross. */
function straightened(rows: readonly (readonly Box[])[]): readonly (readonly Box[])[] {
  const done: (readonly Box[])[] = [];
  for (const row of rows) {
    const above = done.at(-1) ?? [];
    const wish = (box: Box, index: number): number => {
      const over = above.flatMap(({ below }, at) => (below.includes(box.key) ? [at] : []));
      return over.length === 0 ? index : mean(over);
    };
    const wishes = row.map((box, index) => ({ box, wish: wish(box, index) }));
    done.push(wishes.sort((one, other) => one.wish - other.wish).map(({ box }) => box));
  }
  return done;
}
