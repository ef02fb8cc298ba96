/** Which devices stand on which, and an order in which they can be opened. */
import type { TargetRegistry } from "@dmkit/block-io";
import { readOpenTable } from "../manager/lengths.ts";
import { deviceReferences } from "../manager/references.ts";
import type { PlannedDevice } from "./plan.ts";

/** Names of the devices a device stands on directly. */
export function standsOn({ table }: PlannedDevice, targets: TargetRegistry): ReadonlySet<string> {
  return new Set(deviceReferences(readOpenTable(table, targets)));
}

/** Who stands on a device directly, by its name. */
export function usersOf(
  devices: readonly PlannedDevice[],
  targets: TargetRegistry,
): ReadonlyMap<string, ReadonlySet<string>> {
  const users = new Map<string, Set<string>>();
  for (const device of devices) {
    for (const below of standsOn(device, targets)) {
      const known = users.get(below);
      if (known === undefined) users.set(below, new Set([device.name]));
      else known.add(device.name);
    }
  }
  return users;
}

// Cycles told at most; one is enough to refuse a plan.
const MAX_CYCLES = 50;

export interface Order {
  /** What a device stands on comes before it; otherwise as they were given. Without those of a cycle. */
  readonly devices: readonly PlannedDevice[];
  /** Each a chain of names that ends where it began: `a`, `b`, `a`. */
  readonly cycles: readonly (readonly string[])[];
}

/** Orders devices; each refers to given ones only, or what it refers to is left out of the order. */
export function orderDevices(given: readonly PlannedDevice[], targets: TargetRegistry): Order {
  const byName = new Map(given.map((device) => [device.name, device]));
  const below = new Map(given.map((device) => [device.name, [...standsOn(device, targets)]]));
  const devices: PlannedDevice[] = [];
  const cycles: string[][] = [];
  const finished = new Set<string>();
  for (const { name: root } of given) {
    // A walk with a path of its own, because chains may be longer than the stack is deep.
    const path: { name: string; next: number }[] = [];
    const onPath = new Set<string>();
    const enter = (name: string): void => {
      path.push({ name, next: 0 });
      onPath.add(name);
    };
    if (!finished.has(root)) enter(root);
    for (let step = path.at(-1); step !== undefined; step = path.at(-1)) {
      const lower = below.get(step.name)?.[step.next];
      step.next += 1;
      if (lower === undefined) {
        path.pop();
        onPath.delete(step.name);
        finished.add(step.name);
        const device = byName.get(step.name);
        if (device !== undefined) devices.push(device);
      } else if (onPath.has(lower)) {
        if (cycles.length >= MAX_CYCLES) continue;
        const names = path.map(({ name }) => name);
        cycles.push([...names.slice(names.indexOf(lower)), lower]);
      } else if (!finished.has(lower)) {
        enter(lower);
      }
    }
  }
  const looped = new Set(cycles.flat());
  return { devices: devices.filter(({ name }) => !looped.has(name)), cycles };
}
