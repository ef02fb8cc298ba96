/**
 * `striped`: chunks laid out over several devices in turn (RAID 0).
 *
 *      logical   chunk 0   chunk 1   chunk 2   chunk 3 …
 *      device 0  chunk 0             chunk 2
 *      device 1            chunk 1             chunk 3
 */
import { type BlockDevice, type Place, SECTOR } from "../contract/device.ts";
import { refuse } from "../contract/errors.ts";
import { type OptionsOf, parseOptions } from "../dm/options.ts";
import { type Target, requireRoom } from "../dm/target.ts";
import { shared } from "./linear.ts";
import { MappedDevice, type Piece } from "./mapped.ts";

export const stripedOptions = {
  chunk: { type: "sectors", min: 1, max: 4_194_304, help: "sectors that stay together on one device" },
  stripes: {
    type: "list",
    min: 1,
    max: 256,
    help: "the devices to stripe over, in order",
    of: {
      device: { type: "device", help: "the device below" },
      offset: {
        type: "sectors",
        min: 0,
        max: 17_592_186_044_415,
        default: 0,
        help: "sector of the device below where its stripe starts",
      },
    },
  },
} as const;

/** Bytes of a chunk, and where the stripes lie. */
export type StripedOptions = OptionsOf<typeof stripedOptions>;

/** One device of a striped device; `offset` in bytes. */
export interface Stripe {
  readonly device: BlockDevice;
  readonly offset: number;
}

/** Chunks dealt out to several devices in turn. */
export class StripedDevice extends MappedDevice {
  readonly #stripes: readonly Stripe[];
  readonly #chunk: number;

  /** @param size bytes, a multiple of chunk × stripes; @param chunk bytes. Throws `EINVAL`. */
  constructor(stripes: readonly Stripe[], chunk: number, size: number, name = "striped") {
    super(
      name,
      size,
      stripes.map(({ device }) => device),
      [chunk, ...stripes.map(({ offset }) => offset)],
      { optimalTransfer: chunk >= 4096 && Number.isInteger(Math.log2(chunk)) ? chunk : undefined },
    );
    const block = this.limits.logicalBlockSize;
    if (chunk % block !== 0)
      throw refuse(
        this.name,
        "EINVAL",
        `a chunk of ${chunk} bytes is no multiple of ${block}`,
        "Give larger chunks.",
      );
    if (size % (chunk * stripes.length) !== 0) {
      throw refuse(
        this.name,
        "EINVAL",
        `${size / SECTOR} sectors are not a multiple of ${stripes.length} chunks of ${chunk / SECTOR}`,
        `Make the length a multiple of ${(chunk / SECTOR) * stripes.length} sectors.`,
      );
    }
    for (const { device, offset } of stripes) requireRoom(device, offset, size / stripes.length);
    this.#stripes = stripes;
    this.#chunk = chunk;
  }

  protected override locate(offset: number): Piece {
    const within = offset % this.#chunk;
    const index = (offset - within) / this.#chunk;
    const count = this.#stripes.length;
    const { device, offset: start } = this.#stripes[index % count] as Stripe;
    return {
      device,
      offset: start + Math.floor(index / count) * this.#chunk + within,
      length: this.#chunk - within,
    };
  }

  /** One run on each device: chunks that are neighbours there are whole, but for the first and the last. */
  override places(offset: number, length: number): readonly Place[] {
    const runs = this.#stripes.map(({ device }) => ({
      on: device,
      offset: Number.POSITIVE_INFINITY,
      end: 0,
    }));
    const last = Math.floor((offset + length - 1) / this.#chunk);
    const first = Math.floor(offset / this.#chunk);
    const count = this.#stripes.length;
    for (const chunk of ends(first, last, count)) {
      const from = Math.max(offset, chunk * this.#chunk);
      const until = Math.min(offset + length, (chunk + 1) * this.#chunk);
      const run = runs[chunk % count] as (typeof runs)[number];
      const at = this.locate(from).offset;
      run.offset = Math.min(run.offset, at);
      run.end = Math.max(run.end, at + until - from);
    }
    return runs
      .filter(({ end }) => end > 0)
      .map(({ on, offset: start, end }) => ({ on, offset: start, length: end - start }));
  }
}

/** The first and the last chunks of a run: each device has its first and its last among them. */
function* ends(first: number, last: number, count: number): Iterable<number> {
  for (let chunk = first; chunk <= Math.min(last, first + count - 1); chunk += 1) yield chunk;
  for (let chunk = Math.max(first, last - count + 1); chunk <= last; chunk += 1) yield chunk;
}

/** The target `striped`: chunks dealt out to several devices. */
export const striped: Target<StripedOptions> = {
  name: "striped",
  version: [1, 0, 0],
  summary: "chunks spread over several devices in turn",
  synopsis: "<#stripes> <chunk> (<device> <offset>)…",
  options: stripedOptions,
  stack: {
    length: ({ chunk, stripes }) => ({
      parts: stripes.map(({ device, offset }) => ({ of: device, offset })),
      multiple: chunk,
    }),
  },
  parse(args) {
    const { min, max, of, help } = stripedOptions.stripes;
    const count = args.number("number of stripes", { type: "integer", min, max, help });
    const chunk = args.number("chunk", stripedOptions.chunk);
    const stripes = Array.from({ length: count }, () => ({
      device: args.text("device", of.device),
      offset: args.number("offset", of.offset),
    }));
    return { chunk, stripes };
  },
  print: ({ chunk, stripes }) => [
    String(stripes.length),
    String(chunk),
    ...stripes.flatMap(({ device, offset }) => [device, String(offset)]),
  ],
  uses: ({ stripes }, size) =>
    stripes.map(({ device, offset }) => shared(device, offset, size / stripes.length)),
  async open(given, { name, size, lower }) {
    const { chunk, stripes } = parseOptions(stripedOptions, given, "striped");
    const lowers: Stripe[] = [];
    for (const { device, offset } of stripes) {
      const below = await lower(...shared(device, offset, size / stripes.length));
      lowers.push({ device: below, offset: offset * SECTOR });
    }
    return new StripedDevice(lowers, chunk * SECTOR, size, name);
  },
};
