/**
 * `striped`: chunks laid out over several devices in turn (RAID 0).
 *
 *      logical   chunk 0   chunk 1   chunk 2   chunk 3 …
 *      device 0  chunk 0             chunk 2
 *      device 1            chunk 1             chunk 3
 */
import { type BlockDevice, SECTOR } from "../device.ts";
import { BlockIoError } from "../errors.ts";
import type { OptionsOf } from "../options.ts";
import { type Target, requireRoom } from "../target.ts";
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

export type StripedOptions = OptionsOf<typeof stripedOptions>;

/** One device of a striped device; `offset` in bytes. */
export interface Stripe {
  readonly device: BlockDevice;
  readonly offset: number;
}

export class StripedDevice extends MappedDevice {
  readonly #stripes: readonly Stripe[];
  readonly #chunk: number;

  /** @param size bytes, a multiple of chunk × stripes; @param chunk bytes. Throws `EINVAL`. */
  constructor(stripes: readonly Stripe[], chunk: number, size: number, name = "striped") {
    super(
      name,
      size,
      stripes.map(({ device }) => device),
      chunk >= 4096 && Number.isInteger(Math.log2(chunk)) ? chunk : undefined,
    );
    const block = this.limits.logicalBlockSize;
    if (chunk % block !== 0)
      throw this.#refuse(`a chunk of ${chunk} bytes is no multiple of ${block}`, "Give larger chunks.");
    if (size % (chunk * stripes.length) !== 0) {
      throw this.#refuse(
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

  #refuse(reason: string, hint: string): BlockIoError {
    return new BlockIoError(reason, { code: "EINVAL", device: this.name, op: "open", hint });
  }
}

export const striped: Target<StripedOptions> = {
  name: "striped",
  version: [1, 0, 0],
  summary: "chunks spread over several devices in turn",
  synopsis: "<#stripes> <chunk> (<device> <offset>)…",
  options: stripedOptions,
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
  async open({ chunk, stripes }, { name, size, lower }) {
    const lowers: Stripe[] = [];
    for (const { device, offset } of stripes) {
      lowers.push({ device: await lower(device, "write"), offset: offset * SECTOR });
    }
    return new StripedDevice(lowers, chunk * SECTOR, size, name);
  },
};
