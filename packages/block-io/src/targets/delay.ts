/** `delay`: a device that answers later, by a fixed time for reads, one for writes and one for flushes. */
import { type BlockDevice, SECTOR } from "../contract/device.ts";
import { type Clock, sleep } from "../contract/environment.ts";
import { type OptionsOf, parseOptions } from "../dm/options.ts";
import { restOf } from "../dm/stack-rules.ts";
import type { Target } from "../dm/target.ts";
import { LinearDevice, shared } from "./linear.ts";

export const delayOptions = {
  device: { type: "device", help: "the device below" },
  offset: {
    type: "sectors",
    min: 0,
    max: 17_592_186_044_415,
    default: 0,
    help: "sector of the device below where this one starts",
  },
  read: { type: "integer", min: 0, max: 86_400_000, unit: "ms", help: "delay of reads" },
  write: { type: "integer", min: 0, max: 86_400_000, unit: "ms", default: 0, help: "delay of writes" },
  flush: { type: "integer", min: 0, max: 86_400_000, unit: "ms", default: 0, help: "delay of flushes" },
} as const;

/** Where requests go, and how long they take, in milliseconds. */
export type DelayOptions = OptionsOf<typeof delayOptions>;

/** Milliseconds. */
export interface Delays {
  readonly read: number;
  readonly write: number;
  readonly flush: number;
}

/** Another device, slower. */
export class DelayDevice extends LinearDevice {
  readonly #delays: Delays;
  readonly #clock: Clock;

  /** @param offset bytes on `device`; @param size bytes. */
  constructor(
    device: BlockDevice,
    offset: number,
    size: number,
    delays: Delays,
    clock: Clock,
    name = "delay",
  ) {
    super(device, offset, size, name);
    this.#delays = delays;
    this.#clock = clock;
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    await sleep(this.#clock, this.#delays.read);
    await super.doRead(offset, into);
  }

  protected override async doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    await sleep(this.#clock, this.#delays.write);
    await super.doWrite(offset, from, fua);
  }

  protected override async doFlush(): Promise<void> {
    await sleep(this.#clock, this.#delays.flush);
    await super.doFlush();
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    await sleep(this.#clock, this.#delays.write);
    await super.doDiscard(offset, length);
  }

  protected override async doWriteZeroes(
    ...request: Parameters<LinearDevice["doWriteZeroes"]>
  ): Promise<void> {
    await sleep(this.#clock, this.#delays.write);
    await super.doWriteZeroes(...request);
  }
}

/** The target `delay`: requests take longer, each kind as long as it is told. */
export const delay: Target<DelayOptions> = {
  name: "delay",
  version: [1, 0, 0],
  summary: "a device that answers later",
  synopsis: "<device> <offset> <read ms> [<write ms> [<flush ms>]]",
  options: delayOptions,
  stack: { length: ({ device, offset }) => restOf(device, offset) },
  parse(args) {
    const device = args.text("device", delayOptions.device);
    const offset = args.number("offset", delayOptions.offset);
    const read = args.number("read delay", delayOptions.read);
    // As in device-mapper: writes are delayed like reads, flushes like writes, unless said otherwise.
    const write = args.remaining > 0 ? args.number("write delay", delayOptions.write) : read;
    const flush = args.remaining > 0 ? args.number("flush delay", delayOptions.flush) : write;
    return { device, offset, read, write, flush };
  },
  print: ({ device, offset, read, write, flush }) => [device, ...[offset, read, write, flush].map(String)],
  uses: ({ device, offset }, size) => [shared(device, offset, size)],
  async open(given, { name, size, lower, environment }) {
    const { device, offset, ...delays } = parseOptions(delayOptions, given, "delay");
    const below = await lower(...shared(device, offset, size));
    return new DelayDevice(below, offset * SECTOR, size, delays, environment.clock, name);
  },
};
