/** Reads as zeroes and forgets what is written: `null:` as a lower device, `zero` as a target. */
import { type Extent, type Limits, done, plainLimits } from "../contract/device.ts";
import { GuardedTarget } from "../dm/target.ts";

const limits: Limits = {
  ...plainLimits,
  discardGranularity: 512,
  capabilities: {
    readOnly: false,
    fua: "native",
    discard: "native",
    discardZeroes: true,
    writeZeroes: "native",
    fastZero: true,
    extents: true,
  },
};

/** Reads as zeroes, forgets what is written. */
export class ZeroDevice extends GuardedTarget {
  /** @param size bytes, a multiple of 512. */
  constructor(size: number, name = "zero") {
    super(name, size, limits);
  }

  protected override doRead(_offset: number, into: Buffer): Promise<void> {
    into.fill(0);
    return done;
  }

  protected override doWrite(): Promise<void> {
    return done;
  }

  protected override doFlush(): Promise<void> {
    return done;
  }

  protected override doWriteZeroes(): Promise<void> {
    return done;
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    yield { offset, length, kind: "hole" };
  }
}
