/** writeboost under the simulation: tiny rings that wrap, both types, everything that changes the order of things. */
import {
  type BlockDevice,
  BlockIoError,
  type Environment,
  LinearDevice,
  type WriteOptions,
} from "@dmkit/block-io";
import { type Prng, type RuledTarget, type SimTarget, ruled } from "@dmkit/block-io/testing";
import { plogSegmentSize } from "../format/geometry.ts";
import { type Rules, rules } from "../core/rules.ts";
import { type Dialect, type Tunables, WriteboostDevice } from "../index.ts";
import { openWith } from "../open/open.ts";
import { type Session, switched, takeAway } from "./sim-through.ts";

export interface Knobs {
  readonly type: 0 | 1;
  readonly order: number;
  readonly pool: number;
  readonly dialect: Dialect;
  readonly size: number;
  readonly tunables: Partial<Tunables>;
  /** Blocks of the backing device that take no data. */
  readonly bad: readonly number[];
  /** Bytes that the cache device has at first, where it is made larger later. */
  readonly grownFrom?: number | undefined;
  /** Of a cache that writes through, and may be taken away. */
  readonly through?: Session | undefined;
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
  /** Of the backing device. */
  readonly blocks?: readonly [number, ...number[]];
  readonly pools?: readonly [number, ...number[]];
  readonly dialect?: Dialect;
  /** The backing device has blocks that take no data, ever. */
  readonly badSpots?: boolean;
  /** The cache device is made larger between two sessions. */
  readonly grows?: boolean;
  /** It writes through, and now and then the cache is taken away between two sessions. */
  readonly through?: boolean;
  /** Free segments are discarded. */
  readonly discards?: boolean;
  /** Requests in a session, and sessions, at most; 60 and 8 unless told otherwise. */
  readonly load?: readonly [requests: number, sessions: number];
  /** What else is set. */
  readonly steered?: (random: Prng) => Partial<Tunables>;
}

type Target = RuledTarget<Knobs, Rules>;

function target(name: string, summary: string, shape: Shape): Target {
  return ruled(rules, (decisions) => made(name, summary, shape, decisions));
}

function made(name: string, summary: string, shape: Shape, decisions: Rules): SimTarget<Knobs> {
  const [operations, generations] = shape.load ?? [60, 8];
  return {
    name,
    summary,
    geometry(random) {
      const { order, type } = shape;
      const slots = shape.slots(random);
      // Now and then the last block is short, or the device ends before the backing device does.
      const blocks = random.pick(shape.blocks ?? [8, 24, 64, 128]);
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
        // What goes past the log meets the bad spots itself.
        ...(shape.badSpots ? { sequential_cutoff: 0 } : {}),
        ...shape.steered?.(random),
      };
      const bad = shape.badSpots
        ? Array.from({ length: random.between(1, 4) }, () => random.below(blocks))
        : [];
      return {
        disks: [
          { name: "backing", size: backing, fill, discard },
          {
            name: "cache",
            size: MIB + slots * 512 * 2 ** order,
            ...(shape.discards && { discard: random.pick(["zeroes", "either"] as const) }),
          },
          ...(type === 1 ? [{ name: "plog", size: plog }] : []),
        ],
        knobs: {
          type,
          order,
          pool: random.pick(shape.pools ?? [1, 2, 3, 8]),
          dialect: shape.dialect ?? "classic",
          size: backing,
          tunables,
          bad,
          ...(shape.through && { through: {} }),
          ...(shape.grows && { grownFrom: MIB + random.between(3, slots - 1) * 512 * 2 ** order }),
        },
        stamped: () => fill === "stamps",
      };
    },
    ...(shape.grows && { create: (disks, env, knobs) => createSmall(disks, env, knobs, decisions) }),
    open: (disks, environment, knobs) => openOn(disks, environment, knobs, decisions),
    async quiesce(device, knobs) {
      if (!(device instanceof WriteboostDevice)) return ["not a writeboost device"];
      await device.flush();
      if (knobs.bad.length > 0) return quiesceOverBadSpots(device, knobs.bad);
      await device.dropCaches();
      const { dirtyBlocks, lastFlushedId, lastWritebackId } = device.statusData;
      const stuck: string[] = [];
      if (dirtyBlocks !== 0) stuck.push(`${dirtyBlocks} blocks are dirty after drop_caches`);
      if (lastWritebackId !== lastFlushedId)
        stuck.push(`written back ${lastWritebackId} of ${lastFlushedId}`);
      return stuck;
    },
    workload: { operations, transfer: 65_536, generations },
  };
}

async function openOn(
  disks: readonly BlockDevice[],
  environment: Environment,
  { bad, order, pool, dialect, tunables, grownFrom, through }: Knobs,
  decisions: Rules,
): Promise<WriteboostDevice> {
  const [disk, cache, plog] = disks as [BlockDevice, BlockDevice, BlockDevice | undefined];
  const backing = bad.length > 0 ? withBadSpots(disk, bad) : disk;
  const options = { order, pool, dialect, tunables, environment };
  // Now and then, so that there are sessions before, in which something becomes dirty.
  const grow = grownFrom !== undefined && environment.random.next() < 0.4;
  if (through === undefined) return openWith({ backing, cache, plog }, { ...options, grow }, decisions);
  await takeAway(disks, environment, through);
  const device = await openWith({ backing, cache, plog }, { ...options, force: true }, decisions);
  return switched(device, environment, through);
}

/** A cache on the first part of its device. */
async function createSmall(
  [backing, cache, plog]: readonly BlockDevice[],
  environment: Environment,
  { order, pool, dialect, grownFrom = 0 }: Knobs,
  decisions: Rules,
): Promise<void> {
  const part = new LinearDevice(cache as BlockDevice, 0, grownFrom, "cache");
  const devices = { backing: backing as BlockDevice, cache: part, plog };
  const options = { order, pool, dialect, environment, force: true };
  await (await openWith(devices, options, decisions)).close();
}

/**
 * A device some of whose blocks take no data: a write that touches one fails there. Zeroes it takes, so that
 * requests which go past the log, and may well be refused, need not be told apart from those which must not be.
 */
function withBadSpots(disk: BlockDevice, bad: readonly number[]): BlockDevice {
  return new Proxy(disk, {
    get(target, key) {
      if (key === "write") {
        return async (offset: number, from: Buffer, options?: WriteOptions): Promise<void> => {
          const end = offset + from.length;
          const hit = bad.find((block) => block * 4096 < end && (block + 1) * 4096 > offset);
          if (hit === undefined) return target.write(offset, from, options);
          const before = Math.max(0, hit * 4096 - offset);
          if (before > 0) await target.write(offset, from.subarray(0, before), options);
          throw new BlockIoError("a bad spot", {
            code: "EIO",
            device: target.name,
            op: "write",
            offset,
            length: from.length,
          });
        };
      }
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? (value as () => unknown).bind(target) : value;
    },
  });
}

/** Everything but the bad spots can be written back, and the cache says so. */
async function quiesceOverBadSpots(device: WriteboostDevice, bad: readonly number[]): Promise<string[]> {
  const stuck: string[] = [];
  const dropped = await device.dropCaches().then(
    () => undefined,
    (error: unknown) => error,
  );
  const { dirtyBlocks, trouble } = device.statusData;
  if (dirtyBlocks > new Set(bad).size) stuck.push(`${dirtyBlocks} blocks are dirty, ${bad.length} are bad`);
  if (dirtyBlocks > 0 && dropped === undefined) stuck.push("drop_caches says that all is written back");
  if (dirtyBlocks > 0 && trouble.bad_blocks === 0) stuck.push("the status does not tell of bad blocks");
  return stuck;
}

const tiny = (random: Prng): number => random.pick([3, 3, 4, 5, 7]);
const small = (random: Prng): number => random.between(3, 20);

export const simTargets: readonly Target[] = [
  target("writeboost-0", "type 0, order 4, rings of 3 to 7 slots", { type: 0, order: 4, slots: tiny }),
  target("writeboost-0-many", "type 0, order 4, rings of 9 to 20 slots: many segments without a flush", {
    type: 0,
    order: 4,
    slots: (random) => random.between(9, 20),
    load: [30, 30],
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
  target("writeboost-0-bad", "type 0, order 4, a backing device with bad spots", {
    type: 0,
    order: 4,
    slots: (random) => random.between(7, 20),
    badSpots: true,
  }),
  target("writeboost-1-bad", "type 1, order 5, a backing device with bad spots", {
    type: 1,
    order: 5,
    slots: (random) => random.between(6, 20),
    badSpots: true,
  }),
  target(
    "writeboost-1-full",
    "type 1, order 6, rings of 3 to 5 slots full of what a backing device with bad spots refuses",
    {
      type: 1,
      order: 6,
      slots: (random) => random.between(3, 5),
      badSpots: true,
      blocks: [8, 8, 24],
      plogs: [1, 2, 4, 9],
    },
  ),
  target(
    "writeboost-0-steered",
    "type 0, order 5, with everything that steers what is cached and when it is written back",
    {
      type: 0,
      order: 5,
      slots: small,
      writeback: true,
      readCache: true,
      steered: (random) => ({
        promote_after: random.pick([0, 1, 2, 3]),
        write_around_mode: random.pick([0, 1]),
        writeback_rate: random.pick([0, 4096, 1_000_000]),
        writeback_pause: random.pick([0, 1, 500]),
      }),
    },
  ),
  ...([0, 1] as const).map((type) =>
    target(
      `writeboost-${type}-discarding`,
      `type ${type}, order 4, free segments are discarded on the cache device`,
      {
        type,
        order: 4,
        slots: (random) => random.between(4, 16),
        writeback: true,
        discards: true,
        readCache: false,
        steered: () => ({ discard_cache: 1 }),
      },
    ),
  ),
  ...([0, 1] as const).map((type) =>
    target(
      `writeboost-${type}-through`,
      `type ${type}, order 5, writes through, and the cache is taken away`,
      {
        type,
        order: 5,
        slots: small,
        through: true,
        discards: true,
        steered: (random) => ({ write_through: 1, discard_cache: random.pick([0, 0, 1]) }),
      },
    ),
  ),
  target("writeboost-0-growing", "type 0, order 4, a cache device that is made larger", {
    type: 0,
    order: 4,
    slots: (random) => random.between(4, 12),
    grows: true,
  }),
  target("writeboost-1-growing", "type 1, order 4, a cache device that is made larger", {
    type: 1,
    order: 4,
    slots: (random) => random.between(4, 12),
    grows: true,
  }),
  target("writeboost-1-large", "type 1, order 10", {
    type: 1,
    order: 10,
    slots: (random) => random.pick([3, 4]),
  }),
];

/** One of {@link simTargets}. */
export function targetNamed(name: string): Target {
  const found = simTargets.find((one) => one.name === name);
  if (found === undefined) throw new TypeError(`there is no simulation target ${name}`);
  return found;
}
