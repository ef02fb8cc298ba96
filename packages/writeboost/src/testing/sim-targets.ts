/** writeboost under the simulation: tiny rings that wrap, both types, everything that changes the order of things. */
import type { BlockDevice } from "@dmkit/block-io";
import type { Prng, SimTarget } from "@dmkit/block-io/testing";
import { plogSegmentSize } from "../format/geometry.ts";
import { type Dialect, type Tunables, WriteboostDevice, openWriteboost } from "../index.ts";

export interface Knobs {
  readonly type: 0 | 1;
  readonly order: number;
  readonly pool: number;
  readonly dialect: Dialect;
  readonly size: number;
  readonly tunables: Partial<Tunables>;
}

const MIB = 1024 * 1024;

interface Shape {
  readonly type: 0 | 1;
  readonly order: number;
  readonly slots: (random: Prng) => number;
  readonly writeback?: boolean;
  readonly readCache?: boolean;
  /** Plog segments that fit, and RAM buffers. */
  readonly plogs?: readonly [number, ...number[]];
  readonly pools?: readonly [number, ...number[]];
  readonly dialect?: Dialect;
}

function target(name: string, summary: string, shape: Shape): SimTarget<Knobs> {
  return {
    name,
    summary,
    geometry(random) {
      const { order, type } = shape;
      const slots = shape.slots(random);
      // Now and then the last block is short, or the device ends before the backing device does.
      const blocks = random.pick([8, 24, 64, 128]);
      const backing = blocks * 4096 + random.pick([0, 0, 512, 2048]);
      const fill = random.pick(["zero", "stamps"] as const);
      const fit = random.pick(shape.plogs ?? [1, 2, 3, 9]);
      const plog = fit * plogSegmentSize(order) + random.pick([0, 512]);
      const discard = random.pick(["none", "zeroes", "either"] as const);
      const tunables: Partial<Tunables> = {
        allow_writeback: (shape.writeback ?? random.chance(0.5)) ? 1 : 0,
        nr_max_batched_writeback: random.pick([1, 2, 3, 8]),
        update_record_interval: random.pick([0, 0, 1]),
        sync_interval: random.pick([0, 0, 1]),
        enable_writeback_modulator: random.pick([0, 0, 1]),
        read_cache_threshold: (shape.readCache ?? random.chance(0.3)) ? random.pick([2, 64]) : 0,
        sequential_cutoff: random.pick([0, 0, 4096, 16_384]),
      };
      return {
        disks: [
          { name: "backing", size: backing, fill, discard },
          { name: "cache", size: MIB + slots * 512 * 2 ** order },
          ...(type === 1 ? [{ name: "plog", size: plog }] : []),
        ],
        knobs: {
          type,
          order,
          pool: random.pick(shape.pools ?? [1, 2, 3, 8]),
          dialect: shape.dialect ?? "classic",
          size: backing,
          tunables,
        },
        stamped: () => fill === "stamps",
      };
    },
    open(disks, environment, knobs) {
      const [backing, cache, plog] = disks as [BlockDevice, BlockDevice, BlockDevice | undefined];
      return openWriteboost(
        { backing, cache, plog },
        {
          order: knobs.order,
          pool: knobs.pool,
          dialect: knobs.dialect,
          tunables: knobs.tunables,
          environment,
        },
      );
    },
    async quiesce(device) {
      if (!(device instanceof WriteboostDevice)) return ["not a writeboost device"];
      await device.flush();
      await device.dropCaches();
      const { dirtyBlocks, lastFlushedId, lastWritebackId } = device.statusData;
      const stuck: string[] = [];
      if (dirtyBlocks !== 0) stuck.push(`${dirtyBlocks} blocks are dirty after drop_caches`);
      if (lastWritebackId !== lastFlushedId)
        stuck.push(`written back ${lastWritebackId} of ${lastFlushedId}`);
      return stuck;
    },
    workload: { operations: 60, transfer: 65_536, generations: 8 },
  };
}

const tiny = (random: Prng): number => random.pick([3, 3, 4, 5, 7]);
const small = (random: Prng): number => random.between(3, 20);

export const simTargets: readonly SimTarget[] = [
  target("writeboost-0", "type 0, order 4, rings of 3 to 7 slots", { type: 0, order: 4, slots: tiny }),
  target("writeboost-0-many", "type 0, order 4, rings of 9 to 20 slots: many segments without a flush", {
    type: 0,
    order: 4,
    slots: (random) => random.between(9, 20),
  }),
  target("writeboost-0-ring", "type 0, order 5, rings of 3 to 20 slots", { type: 0, order: 5, slots: small }),
  target("writeboost-0-cached", "type 0, order 5, read caching and writeback", {
    type: 0,
    order: 5,
    slots: small,
    writeback: true,
    readCache: true,
  }),
  target("writeboost-0-large", "type 0, order 10", {
    type: 0,
    order: 10,
    slots: (random) => random.pick([3, 4]),
  }),
  target("writeboost-0-v2", "type 0, order 10, v2 dialect", {
    type: 0,
    order: 10,
    slots: (random) => random.pick([3, 4]),
    dialect: "v2",
  }),
  target("writeboost-1", "type 1, order 4, rings of 3 to 7 slots", { type: 1, order: 4, slots: tiny }),
  target("writeboost-1-ring", "type 1, order 6, rings of 3 to 20 slots", { type: 1, order: 6, slots: small }),
  target(
    "writeboost-1-two",
    "type 1, order 5, rings of 3 and 4 slots, plogs that hold two segments at once",
    {
      type: 1,
      order: 5,
      slots: (random) => random.pick([3, 4]),
      plogs: [4, 9],
      pools: [3, 8],
    },
  ),
  target("writeboost-1-large", "type 1, order 10", {
    type: 1,
    order: 10,
    slots: (random) => random.pick([3, 4]),
  }),
];

/** One of {@link simTargets}. */
export function targetNamed(name: string): SimTarget {
  const found = simTargets.find((one) => one.name === name);
  if (found === undefined) throw new TypeError(`there is no simulation target ${name}`);
  return found;
}
