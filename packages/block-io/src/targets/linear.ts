/** `linear`: a run of sectors of another device. */
import { type BlockDevice, SECTOR } from "../contract/device.ts";
import type { DeviceUse } from "../below/claims.ts";
import { type OptionsOf, parseOptions } from "../dm/options.ts";
import { restOf } from "../dm/stack-rules.ts";
import { type Target, requireRoom } from "../dm/target.ts";
import { MappedDevice, type Piece } from "./mapped.ts";

export const linearOptions = {
  device: { type: "device", help: "the device below" },
  offset: {
    type: "sectors",
    min: 0,
    max: 17_592_186_044_415,
    default: 0,
    help: "sector of the device below where this one starts",
  },
} as const;

/** A device, and where on it the line starts, in sectors. */
export type LinearOptions = OptionsOf<typeof linearOptions>;

/** A range of another device. */
export class LinearDevice extends MappedDevice {
  readonly #piece: Piece;

  /**
   * @param offset bytes on `device`; @param size bytes. Throws `EINVAL` if they do not fit.
   * @param readOnly whatever `device` allows.
   */
  constructor(device: BlockDevice, offset: number, size: number, name = "linear", readOnly = false) {
    super(name, size, [device], [offset], { readOnly });
    requireRoom(device, offset, size);
    this.#piece = { device, offset, length: size };
  }

  protected override locate(offset: number): Piece {
    const { device, offset: start, length } = this.#piece;
    return { device, offset: start + offset, length: length - offset };
  }
}

/** What a target does with a device whose requests it only hands on. @param offset sectors; @param length bytes. */
export function shared(device: string, offset: number, length: number): DeviceUse {
  return [device, "shares", { offset: offset * SECTOR, length }];
}

/** The target `linear`: a range of a device. */
export const linear: Target<LinearOptions> = {
  name: "linear",
  version: [1, 0, 0],
  summary: "a run of sectors of another device",
  synopsis: "<device> <offset>",
  options: linearOptions,
  stack: { length: ({ device, offset }) => restOf(device, offset) },
  parse: (args) => ({
    device: args.text("device", linearOptions.device),
    offset: args.number("offset", linearOptions.offset),
  }),
  print: ({ device, offset }) => [device, String(offset)],
  uses: ({ device, offset }, size) => [shared(device, offset, size)],
  async open(given, { name, size, lower }) {
    const { device, offset } = parseOptions(linearOptions, given, "linear");
    return new LinearDevice(await lower(...shared(device, offset, size)), offset * SECTOR, size, name);
  },
};
