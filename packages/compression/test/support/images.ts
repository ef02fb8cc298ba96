/** Images and the damage done to them, for the tests of offline tools. */
import { createHash } from "node:crypto";
import {
  type BlockDevice,
  BlockIoError,
  GuardedDevice,
  type ImageProblem,
  MemoryDevice,
  type OfflineWork,
  type TargetDevice,
  realEnvironment,
  withCapabilities,
} from "@dmkit/block-io";
import { BadSectors, SeededRandom, contentsOf as bytesOf } from "@dmkit/block-io/testing";
import { check } from "../../src/index.ts";
import { type LayoutV2, layoutV2 } from "../../src/format/layout-v2.ts";
import { openOn } from "../../src/testing/sim-targets.ts";

export const BLOCK = 4096;
export const JOURNAL: number = 2 * 68 * BLOCK;
export const SMALL: Readonly<Record<string, unknown>> = { format: "v2", journal: JOURNAL };
export const work: OfflineWork = { environment: realEnvironment };

export const noise = (seed: number, blocks: number): Buffer =>
  new SeededRandom(seed).fill(Buffer.alloc(blocks * BLOCK));
export const text = (seed: number, blocks: number): Buffer =>
  Buffer.from(Array.from({ length: blocks * BLOCK }, (_, at) => 97 + ((at * at + seed) % 19)));

/** The code of the error, or "no error". */
export async function code(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : String(error)),
  );
}

export { bytesOf };

/** A disk with the same bytes: what a crash leaves. */
export async function crashedCopy(lower: BlockDevice): Promise<BadSectors> {
  const left = new BadSectors(lower.size);
  await left.write(0, await bytesOf(lower));
  return left;
}

export async function deviceOf(bytes: Buffer): Promise<MemoryDevice> {
  const device = new MemoryDevice(bytes.length);
  await device.write(0, bytes);
  return device;
}

export function openImage(
  lower: BlockDevice,
  blocks: number,
  values: Readonly<Record<string, unknown>> = SMALL,
): Promise<TargetDevice> {
  return openOn(lower, blocks * BLOCK, values, realEnvironment);
}

export async function problemsOf(device: BlockDevice): Promise<ImageProblem[]> {
  const found: ImageProblem[] = [];
  for await (const problem of check(device, work)) found.push(problem);
  return found;
}

/** What stands for a block's contents in comparisons. */
export function digest(block: Buffer): string {
  return createHash("sha1").update(block).digest("hex");
}

/** The {@link digest} of each block, or the code of the error that reading it gives. */
export async function blocksOf(device: TargetDevice): Promise<string[]> {
  const found: string[] = [];
  for (let at = 0; at < device.size; at += BLOCK) {
    const into = Buffer.alloc(BLOCK, 1);
    const result = await code(device.read(at, into));
    found.push(result === "no error" ? digest(into) : result);
  }
  return found;
}

/** The same of an image with these bytes. */
export async function contentsOf(
  bytes: Buffer,
  blocks: number,
  values: Readonly<Record<string, unknown>> = {},
): Promise<string[]> {
  return blocksOf(await openImage(await deviceOf(bytes), blocks, values));
}

/** The blocks of {@link blocksOf} that could not be read. */
export function eio(found: readonly string[]): number[] {
  return found.flatMap((one, block) => (one === "EIO" ? [block] : []));
}

/** Numbers from one on. */
export function range(from: number, count: number): number[] {
  return Array.from({ length: count }, (_, at) => from + at);
}

/** The layout of a device of format 2 with the small journal. */
export function layoutOf(size: number): LayoutV2 {
  const layout = layoutV2(size / BLOCK, JOURNAL);
  if (layout === undefined) throw new Error("no layout");
  return layout;
}

export function flipBit(bytes: Buffer, at: number, bit = 3): void {
  bytes[at] = (bytes[at] as number) ^ (1 << bit);
}

/** What a device holds, not to be written to. */
export class ReadOnly extends GuardedDevice {
  readonly #device: BlockDevice;

  constructor(device: BlockDevice) {
    super(device.name, device.size, withCapabilities(device.limits, { readOnly: true }));
    this.#device = device;
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    return this.#device.read(offset, into);
  }

  protected override doWrite(): Promise<void> {
    throw new Error("a device that must not be written to");
  }

  protected override doFlush(): Promise<void> {
    throw new Error("a device that must not be flushed");
  }
}

interface Logged {
  readonly offset: number;
  /** Undefined: a flush. */
  readonly bytes: Buffer | undefined;
}

/** A device that keeps what was done to it. */
export class Recorder extends MemoryDevice {
  readonly log: Logged[] = [];

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    this.log.push({ offset, bytes: Buffer.from(from) });
    return super.doWrite(offset, from);
  }

  protected override doFlush(): Promise<void> {
    this.log.push({ offset: 0, bytes: undefined });
    return super.doFlush();
  }
}

/** What a power failure at each step of a log leaves: everything flushed, and any of the sectors that were not. */
export function* crashImages(before: Buffer, log: readonly Logged[], random: SeededRandom): Iterable<Buffer> {
  const stable = Buffer.from(before);
  let pending: Logged[] = [];
  for (const entry of log) {
    if (entry.bytes === undefined) {
      for (const { offset, bytes } of pending) bytes?.copy(stable, offset);
      pending = [];
      continue;
    }
    pending.push(entry);
    for (const share of [0, 0.6]) {
      const image = Buffer.from(stable);
      for (const { offset, bytes } of pending) {
        for (let at = 0; at < (bytes?.length ?? 0); at += 512) {
          if (random.chance(share)) bytes?.copy(image, offset + at, at, at + 512);
        }
      }
      yield image;
    }
  }
}
