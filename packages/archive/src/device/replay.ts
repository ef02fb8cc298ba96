/** A history onto a device: what the log has, in order, over what is there. */
import { type BlockDevice, inParallel, checkSettings, workSettings } from "@dmkit/block-io";
import { BLOCK, type LogSegment } from "../format/log-object.ts";
import type { Archive } from "./archive.ts";
import { type HistoricSegment, type History, type When, segmentsOf } from "./history.ts";

/** How a replay is ended, and how it says how far it is. */
export interface ReplayOptions {
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ((progress: { readonly done: number; readonly total: number }) => void) | undefined;
}

/**
 * Writes the segments of a history up to a moment to a device that equals its checkpoint, and flushes. Returns the id of
 * the last one. Errors: those of {@link segmentsOf} and of the device.
 */
export async function replayOnto(
  archive: Archive,
  history: History,
  device: BlockDevice,
  when: When = "newest",
  options: ReplayOptions = {},
): Promise<number> {
  checkSettings(workSettings, options, "write");
  let { id } = history.checkpoint;
  for await (const segment of replaying(archive, history, device, when, options)) ({ id } = segment);
  await device.flush();
  return id;
}

/** The segments of a history, each when it is written to the device. Flushes nothing. */
export async function* replaying(
  archive: Archive,
  history: History,
  device: BlockDevice,
  when: When,
  { signal, progress }: ReplayOptions,
): AsyncGenerator<HistoricSegment> {
  for await (const segment of segmentsOf(archive, history, when)) {
    signal?.throwIfAborted();
    // Within a segment a block comes once: its writes do not meet.
    await inParallel(runsOf(segment), 16, ({ offset, bytes }) => device.write(offset, bytes));
    progress?.({ done: segment.object + 1, total: history.objects.length });
    yield segment;
  }
}

/** What a segment writes, contiguous sectors together. */
function* runsOf({
  sectors,
  bits,
  data,
}: LogSegment): Generator<{ readonly offset: number; readonly bytes: Buffer }> {
  let start = 0;
  let end = 0;
  let offset = 0;
  for (const [block, sector] of sectors.entries()) {
    for (let bit = 0; bit < 8; bit += 1) {
      if (((bits[block] as number) & (1 << bit)) === 0) continue;
      const at = block * BLOCK + bit * 512;
      const to = (sector + bit) * 512;
      if (end === at && to === offset + (end - start) && end > start) {
        end += 512;
        continue;
      }
      if (end > start) yield { offset, bytes: data.subarray(start, end) };
      [start, end, offset] = [at, at + 512, to];
    }
  }
  if (end > start) yield { offset, bytes: data.subarray(start, end) };
}
