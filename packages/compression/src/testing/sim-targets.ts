/** Compression on simulated disks. Everything is compressed at once: threads have no place in a simulation. */
import {
  type BlockDevice,
  type Environment,
  GuardedDevice,
  type TargetDevice,
  parseOptions,
} from "@dmkit/block-io";
import {
  type Prng,
  type RuledTarget,
  type SimTarget,
  mutant,
  onDisks,
  replaced,
  ruled,
} from "@dmkit/block-io/testing";
import { createCompressor } from "@dmkit/compressor";
import { Fading } from "./fading.ts";
import { Codec } from "../device/codec.ts";
import { MIN_JOURNAL } from "../format/layout-v2.ts";
import { type CompressionRules, compressionRules } from "../core/rules.ts";
import { check, compressionOptions, openCompression } from "../index.ts";

// Loading a library takes real turns of the event loop: done here, so that opening takes none.
for (const name of ["lz4", "lzo", "deflate"]) await (await createCompressor(name)).close();

export interface Knobs {
  readonly blocks: number;
  readonly options: Readonly<Record<string, unknown>>;
}

/** Opens on a device, compressing at once. */
export function openOn(
  lower: BlockDevice,
  size: number,
  values: Readonly<Record<string, unknown>>,
  environment: Environment,
  { synchronous = true, rules = compressionRules }: { synchronous?: boolean; rules?: CompressionRules } = {},
): Promise<TargetDevice> {
  const options = parseOptions(compressionOptions, { device: "lower", ...values });
  return openCompression(
    options,
    { name: "compression", size, environment, lower: async () => lower },
    { synchronous },
    rules,
  );
}

type Vary = (random: Prng) => Readonly<Record<string, unknown>>;

export type CompressionTarget = RuledTarget<Knobs, CompressionRules>;

function target(
  name: string,
  summary: string,
  overhead: number,
  vary: Vary,
  more: Partial<SimTarget<Knobs>> = {},
): CompressionTarget {
  return ruled(compressionRules, (rules) => ({
    name: `compression:${name}`,
    summary,
    geometry(random) {
      const blocks = 16 + random.below(random.chance(0.3) ? 180 : 64);
      return {
        disks: [
          {
            name: "lower",
            size: (overhead + blocks) * 4096,
            fill: random.chance(0.2) ? "noise" : "zero",
            logicalBlockSize: random.chance(0.2) ? 4096 : 512,
            discard: random.pick(["zeroes", "either", "none"]),
          },
        ],
        knobs: { blocks, options: vary(random) },
      };
    },
    async create([lower], env, { blocks, options }) {
      const device = await openOn(lower as BlockDevice, blocks * 4096, { ...options, force: true }, env, {
        rules,
      });
      await device.close();
    },
    open: ([lower], env, { blocks, options }) =>
      openOn(lower as BlockDevice, blocks * 4096, options, env, { rules }),
    async check([lower]) {
      const problems: string[] = [];
      for await (const { kind, text, location } of check(lower as BlockDevice))
        problems.push(`${kind} at ${location}: ${text}`);
      return problems;
    },
    ...more,
  }));
}

const journalBlocks = MIN_JOURNAL / 4096;

function varyV2(random: Prng): Readonly<Record<string, unknown>> {
  return {
    format: "v2",
    journal: MIN_JOURNAL,
    algorithm: random.pick(["lz4", "lz4", "lzo", "none"]),
    max_extent: random.pick([4096, 16_384, 49_152, 131_072]),
    discard_holes: random.chance(0.3),
    memory: random.pick([65_536, 131_072, 2 ** 20]),
    ...(random.chance(0.8) ? { mode: "writeback", interval: random.pick([1, 5]) } : { mode: "writethrough" }),
  };
}

export const formatTwo: CompressionTarget = target(
  "v2",
  "format 2, crash-safe",
  2 + journalBlocks + 1,
  varyV2,
  { detects: ["rot"] },
);

/** Several groups, small writes: what is wrong with one group's metadata is not put right by the next commit. */
export const wide: CompressionTarget = ruled(compressionRules, (rules) => ({
  ...formatTwo.under(rules),
  name: "compression:v2-wide",
  summary: "format 2, several groups of blocks",
  geometry(random) {
    const blocks = 256;
    return {
      disks: [{ name: "lower", size: (2 + journalBlocks + 1 + blocks) * 4096 }],
      knobs: { blocks, options: { ...varyV2(random), mode: "writethrough" } },
    };
  },
  workload: { transfer: 8192, operations: 60 },
}));

export interface FadingKnobs extends Knobs {
  /** Sectors that are not given, whatever fails meanwhile. */
  readonly bad: Set<number>;
}

/**
 * Sectors of data go bad while the journal has what they held; everything is read when the device is opened, so it is known
 * which. All of it can be read, then and later, and after every crash.
 */
export const fading: RuledTarget<FadingKnobs, CompressionRules> = ruled(compressionRules, (rules) => {
  const base = formatTwo.under(rules);
  return {
    ...base,
    name: "compression:v2-fading",
    summary: "format 2, on a disk whose sectors go bad while the journal has them",
    geometry(random) {
      const { disks, knobs } = base.geometry(random);
      return { disks, knobs: { ...knobs, bad: new Set() } };
    },
    async open([lower], env, { blocks, options, bad }) {
      const disk = new Fading(lower as BlockDevice, bad);
      const device = await openOn(disk, blocks * 4096, options, env, { rules });
      await disk.fade(env.random);
      await device.read(0, Buffer.alloc(device.size));
      return device;
    },
    // A place that takes no write, and has its only copy in the slot of the next record, is lost with a part of that record:
    // docs/design/compression.md.
    excludes: ["short", "write-error"],
    // Much of what can go wrong does so with the first record that is written.
    workload: { transfer: 16_384, operations: 8, generations: 16 },
  };
});

export const formatOne: SimTarget<Knobs> = target("v1", "format 1, as it was", 2, (random) => ({
  format: "v1",
  algorithm: random.pick(["lzo", "lz4"]),
  max_extent: random.pick([4096, 131_072]),
  ...(random.chance(0.5) ? { mode: "writeback", interval: 1 } : { mode: "writethrough" }),
}));

/**
 * Format 1 without compression, every payload raw: what a crash tears then is torn between old and new sectors, as on
 * any disk. So this shows what format 1 loses for other reasons.
 */
function uncompressed(name: string, summary: string, vary: Vary): CompressionTarget {
  const base = target(name, summary, 2, vary);
  const raw = (): (() => void) =>
    replaced(Codec.prototype, "encode", () => (data: Buffer) => Promise.resolve(data));
  return ruled(compressionRules, (rules) => ({ ...mutant(base.under(rules), "raw", raw), name: base.name }));
}

const extents = (random: Prng): Readonly<Record<string, unknown>> => ({
  format: "v1",
  discard_holes: random.chance(0.5),
  max_extent: random.pick([4096, 131_072]),
});

/** Metadata is only written by flushes: nothing is lost. */
export const formatOneRaw: CompressionTarget = uncompressed(
  "v1-raw",
  "format 1, writeback, nothing compressed",
  (random) => ({ ...extents(random), mode: "writeback", interval: 1 }),
);

/** Many small requests, so many flushes: faults of these are found sooner. */
export const formatOneBusy: CompressionTarget = ruled(compressionRules, (rules) => ({
  ...formatOneRaw.under(rules),
  workload: { transfer: 8192, operations: 60 },
}));

/** Metadata is written right behind the data: it may be stable before it. */
export const formatOneRawThrough: SimTarget<Knobs> = uncompressed(
  "v1-raw-through",
  "format 1, writethrough, nothing compressed",
  (random) => ({ ...extents(random), mode: "writethrough" }),
);

/** Data is stable when a write of it has ended; metadata is not. */
class DataFirst extends GuardedDevice {
  readonly #disk: BlockDevice;

  constructor(disk: BlockDevice) {
    super(disk.name, disk.size, disk.limits);
    this.#disk = disk;
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    return this.#disk.read(offset, into);
  }

  protected override async doWrite(offset: number, from: Buffer): Promise<void> {
    await this.#disk.write(offset, from);
    if (offset >= 2 * 4096) await this.#disk.flush();
  }

  protected override doFlush(): Promise<void> {
    return this.#disk.flush();
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    return this.#disk.discard(offset, length);
  }
}

/** A target on disks whose data is stable at once. */
export function dataFirst(target: SimTarget<Knobs>): SimTarget<Knobs> {
  const name = `${target.name}-ordered`;
  return { ...onDisks(target, "ordered", (disk) => new DataFirst(disk)), name };
}

/** Writethrough loses nothing where data is stable before metadata is written. */
export const formatOneRawOrdered: SimTarget<Knobs> = dataFirst(formatOneRawThrough);

/** Compressed, in extents of one block: an update in place endangers this block only. */
export const formatOneSmall: SimTarget<Knobs> = dataFirst(
  target("v1-small", "format 1, one block an extent", 2, (random) => ({
    format: "v1",
    algorithm: random.pick(["lzo", "lz4"]),
    max_extent: 4096,
    ...(random.chance(0.5) ? { mode: "writeback", interval: 1 } : { mode: "writethrough" }),
  })),
);

/** Format 1 where it is sound: what a clean close left. */
export const formatOneClosed: SimTarget<Knobs> = {
  ...formatOne,
  name: "compression:v1-closed",
  summary: "format 1, never crashing",
  survives: "close",
  // An update in place that fails half-way, or never ends, damages the extent as a crash does: nothing this format
  // could do.
  excludes: ["write-error", "short", "enospc", "flush-error", "flush-lossy", "flush-lossless", "hang"],
};

export const simTargets: readonly SimTarget<Knobs>[] = [
  formatTwo,
  wide,
  fading,
  formatOneClosed,
  formatOneRaw,
  formatOneRawOrdered,
];
