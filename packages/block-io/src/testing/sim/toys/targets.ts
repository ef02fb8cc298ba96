/** The toys as simulation targets: two that are right, and three that are deliberately wrong. */
import { SECTOR } from "../../../contract/device.ts";
import { mutant, replaced } from "../mutant.ts";
import type { SimTarget } from "../target.ts";
import { ToyCache } from "./cache.ts";
import { ToyLog, type ToyLogShape, toyLogDiskSize } from "./log.ts";

export const toyLog: SimTarget<ToyLogShape> = {
  name: "toy-log",
  summary: "a redo log that is right",
  geometry: (random) => {
    const knobs = { sectors: random.pick([16, 32, 64]), slots: random.pick([2, 3, 5, 8, 16]) };
    return { disks: [{ name: "disk", size: toyLogDiskSize(knobs) }], knobs };
  },
  open: ([disk], _env, shape) => ToyLog.open(disk as NonNullable<typeof disk>, shape),
};

export const toyCache: SimTarget<{ slots: number }> = {
  name: "toy-cache",
  summary: "a write-back cache that is right",
  geometry: (random) => {
    const slots = random.pick([2, 3, 4, 8]);
    const blocks = random.pick([4, 8, 16]);
    const fill = random.pick(["zero", "stamps"] as const);
    return {
      disks: [
        { name: "backing", size: blocks * 4 * SECTOR, fill },
        { name: "cache", size: slots * 5 * SECTOR },
      ],
      knobs: { slots },
      stamped: () => fill === "stamps",
    };
  },
  open: ([backing, cache], env) =>
    ToyCache.open(backing as NonNullable<typeof backing>, cache as NonNullable<typeof cache>, env),
};

export const toyLogWithoutFlush: SimTarget<ToyLogShape> = {
  ...mutant(toyLog, "no-flush", () =>
    replaced<() => Promise<void>>(ToyLog.prototype, "flushDisk", () => async () => {}),
  ),
  summary: "a log whose flush does nothing",
};

export const toyLogStaleFuture: SimTarget<ToyLogShape> = {
  ...mutant(toyLog, "stale-future", () =>
    replaced<() => number>(ToyLog.prototype, "nextEpoch", () => () => 1),
  ),
  summary: "a log that never begins a new epoch: replay accepts what an earlier life left behind its end",
};

export const toyCacheEarlyReuse: SimTarget<{ slots: number }> = {
  ...mutant(toyCache, "early-reuse", () =>
    replaced<() => Promise<void>>(ToyCache.prototype, "flushBacking", () => async () => {}),
  ),
  summary: "a cache that uses a slot again while its block is not stable on the backing disk",
};

export const toys: readonly SimTarget[] = [toyLog, toyCache];

export const wrongToys: readonly SimTarget[] = [toyLogWithoutFlush, toyLogStaleFuture, toyCacheEarlyReuse];
