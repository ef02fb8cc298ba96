/** Reads as zeroes and forgets what is written: `null:` as a lower device, `zero` as a target. */
import { type Extent, done, fullCapabilities, plainLimits } from "../contract/device.ts";
import { GuardedTarget } from "../dm/target.ts";

/** Reads as zeroes, forgets what is written. */
export class ZeroDevice extends GuardedTarget {
  /** @param size bytes, a multiple of 512. */
  constructor(size: number, name = "zero") {
    super(name, size, { ...plainLimits, discardGranularity: 512, capabilities: fullCapabilities });
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
