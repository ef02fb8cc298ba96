/**
 * `flakey`: works for `up` seconds, then misbehaves for `down` seconds, again and again.
 *
 * While down, writes fail with EIO (or, with `drop_writes`, succeed without being carried out), and reads
 * fail with EIO only if no feature says otherwise. With `down` 0 it never misbehaves.
 */
import { type BlockDevice, SECTOR, done } from "../contract/device.ts";
import type { Clock } from "../contract/environment.ts";
import { BlockIoError } from "../contract/errors.ts";
import type { Facts } from "../contract/facts.ts";
import { type OptionsOf, parseOptions } from "../dm/options.ts";
import { restOf } from "../dm/stack-rules.ts";
import type { Target } from "../dm/target.ts";
import { LinearDevice, shared } from "./linear.ts";

export const flakeyOptions = {
  device: { type: "device", help: "the device below" },
  offset: {
    type: "sectors",
    min: 0,
    max: 17_592_186_044_415,
    default: 0,
    help: "sector of the device below where this one starts",
  },
  up: { type: "integer", min: 0, max: 86_400, unit: "s", help: "seconds the device works" },
  down: { type: "integer", min: 0, max: 86_400, unit: "s", help: "seconds the device then misbehaves" },
  behaviour: {
    type: "choice",
    values: ["error_all", "error_writes", "drop_writes"],
    default: "error_all",
    help: "what happens while down: all I/O fails, only writes fail, or writes are silently lost",
  },
} as const;

/** When the device works, and what is wrong with it when it does not. */
export type FlakeyOptions = OptionsOf<typeof flakeyOptions>;

/** Another device that fails, or forgets writes, for some of the time. */
export class FlakeyDevice extends LinearDevice {
  readonly #clock: Clock;
  readonly #started: number;
  readonly #up: number;
  readonly #down: number;
  readonly #behaviour: FlakeyOptions["behaviour"];

  /** @param offset bytes on `device`; @param size bytes; `up` and `down` in seconds. */
  constructor(
    device: BlockDevice,
    offset: number,
    size: number,
    { up, down, behaviour }: Pick<FlakeyOptions, "up" | "down" | "behaviour">,
    clock: Clock,
    name = "flakey",
  ) {
    super(device, offset, size, name);
    this.#clock = clock;
    this.#started = clock.now();
    this.#up = up * 1000;
    this.#down = down * 1000;
    this.#behaviour = behaviour;
  }

  /** Whether the device misbehaves now. */
  get isDown(): boolean {
    return this.#down > 0 && (this.#clock.now() - this.#started) % (this.#up + this.#down) >= this.#up;
  }

  protected override doFacts(): Facts {
    return { state: this.isDown ? "down" : "up" };
  }

  /** It comes up again: a failed flush is not the end of it. */
  protected override get failsForGood(): boolean {
    return false;
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    if (this.#behaviour === "error_all" && this.isDown) return this.#error();
    return super.doRead(offset, into);
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    return this.#misbehave() ?? super.doWrite(offset, from, fua);
  }

  protected override doFlush(): Promise<void> {
    return this.#misbehave() ?? super.doFlush();
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    return this.#misbehave() ?? super.doDiscard(offset, length);
  }

  protected override async doWriteZeroes(
    ...request: Parameters<LinearDevice["doWriteZeroes"]>
  ): Promise<void> {
    await (this.#misbehave() ?? super.doWriteZeroes(...request));
  }

  #misbehave(): Promise<void> | undefined {
    if (!this.isDown) return undefined;
    return this.#behaviour === "drop_writes" ? done : this.#error();
  }

  #error(): Promise<never> {
    return Promise.reject(new BlockIoError("the device is down", { code: "EIO", device: this.name }));
  }
}

/** The target `flakey`: works and fails in turn. */
export const flakey: Target<FlakeyOptions> = {
  name: "flakey",
  version: [1, 0, 0],
  summary: "a device that misbehaves from time to time",
  synopsis: "<device> <offset> <up s> <down s> [<#features> error_all|error_writes|drop_writes]",
  options: flakeyOptions,
  stack: { length: ({ device, offset }) => restOf(device, offset) },
  parse(args) {
    const device = args.text("device", flakeyOptions.device);
    const offset = args.number("offset", flakeyOptions.offset);
    const up = args.number("up interval", flakeyOptions.up);
    const down = args.number("down interval", flakeyOptions.down);
    const features = args.counted("features");
    const behaviour =
      features.remaining > 0
        ? (features.option("feature", flakeyOptions.behaviour) as FlakeyOptions["behaviour"])
        : flakeyOptions.behaviour.default;
    features.end();
    return { device, offset, up, down, behaviour };
  },
  print: ({ device, offset, up, down, behaviour }) => [
    device,
    ...[offset, up, down].map(String),
    ...(behaviour === flakeyOptions.behaviour.default ? [] : ["1", behaviour]),
  ],
  uses: ({ device, offset }, size) => [shared(device, offset, size)],
  async open(given, { name, size, lower, environment }) {
    const { device, offset, ...intervals } = parseOptions(flakeyOptions, given, "flakey");
    const below = await lower(...shared(device, offset, size));
    return new FlakeyDevice(below, offset * SECTOR, size, intervals, environment.clock, name);
  },
};
