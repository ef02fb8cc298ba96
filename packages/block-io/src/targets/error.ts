/** `error`: every read and write fails with EIO. Stands for a part of a disk that is gone. */
import { plainLimits } from "../contract/device.ts";
import { BlockIoError } from "../contract/errors.ts";
import { parseOptions } from "../dm/options.ts";
import { GuardedTarget, type Target } from "../dm/target.ts";

export const errorOptions = {} as const;

/** None. */
export type ErrorOptions = Readonly<Record<string, never>>;

/** Fails every request with `EIO`. */
export class ErrorDevice extends GuardedTarget {
  /** @param size bytes, a multiple of 512. */
  constructor(size: number, name = "error") {
    super(name, size, plainLimits);
  }

  protected override doRead(): Promise<void> {
    return Promise.reject(this.#error());
  }

  protected override doWrite(): Promise<void> {
    return Promise.reject(this.#error());
  }

  /** Nothing was ever accepted, so there is nothing that could be lost. */
  protected override doFlush(): Promise<void> {
    return Promise.resolve();
  }

  protected override doDiscard(): Promise<void> {
    return Promise.reject(this.#error());
  }

  #error(): BlockIoError {
    return new BlockIoError("this device fails all I/O", { code: "EIO", device: this.name });
  }
}

/** The target `error`: every request fails with `EIO`. */
export const error: Target<ErrorOptions> = {
  name: "error",
  version: [1, 0, 0],
  summary: "fails every read and write",
  synopsis: "",
  options: errorOptions,
  parse: () => ({}),
  print: () => [],
  async open(given, { name, size }) {
    parseOptions(errorOptions, given, "error");
    return new ErrorDevice(size, name);
  },
};
