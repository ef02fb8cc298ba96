/** What a running device says of itself. */
import { type BlockIoError, type Facts, type Health, healthy, isoTime, wholeStory } from "@dmkit/block-io";
import type { Epoch, EpochTable } from "../core/epochs.ts";
import type { Losses, TrackedParts } from "./parts.ts";

/** `<chunk sectors> <chunks> <epochs>/<slots> <lost pages> <commits> <pages written> {<name> <marked chunks>}…` */
export function statusLine({ table, writer, losses }: TrackedParts): string {
  const { chunk, slots } = table.geometry;
  const { commits, pages } = writer.counts;
  const epochs = table.epochs.flatMap(({ name, marked }) => [name, marked]);
  const counts = [chunk / 512, table.chunks, `${table.epochs.length}/${slots}`, losses.pages, commits, pages];
  return [...counts, ...epochs].join(" ");
}

/** The figures of the status line by name. */
export function trackedFacts({ table, writer, losses }: TrackedParts): Facts {
  const { chunk, slots } = table.geometry;
  const { commits, pages } = writer.counts;
  const epochs = table.epochs.flatMap((epoch): [string, string | number][] => [
    [`epoch_${epoch.slot + 1}`, epoch.name],
    [`epoch_${epoch.slot + 1}_marked_bytes`, markedBytes(table, epoch)],
  ]);
  return {
    granularity_bytes: chunk,
    chunks: table.chunks,
    used_epochs: table.epochs.length,
    epoch_slots: slots,
    lost_pages: losses.pages,
    bitmap_commits: commits,
    bitmap_pages_written: pages,
    ...Object.fromEntries(epochs),
  };
}

/** Bytes that an epoch has marked. */
export function markedBytes({ geometry, chunks }: EpochTable, { marked, bits }: Epoch): number {
  const short = bits.get(chunks - 1) ? chunks * geometry.chunk - geometry.size : 0;
  return marked * geometry.chunk - short;
}

/** One line for each epoch: its name, when it began, the bytes marked of all, and whether that is more than has changed. */
export function epochList(table: EpochTable): string {
  return table.epochs
    .map((epoch) => {
      const begun = isoTime(epoch.begun);
      const more = epoch.excess ? " more-than-changed" : "";
      return `${epoch.name} ${begun} ${markedBytes(table, epoch)}/${table.geometry.size}${more}`;
    })
    .join("\n");
}

/** What was lost, as long as an epoch suffers from it. */
export function lossHealth({ pages, changed }: Losses, table: EpochTable): Health {
  const suffers = table.epochs.filter(({ excess }) => excess).map(({ name }) => name);
  if ((pages === 0 && changed === undefined) || suffers.length === 0) return healthy;
  const why =
    changed === undefined
      ? `${pages} pages of the bitmaps were lost, and everything they speak for is marked`
      : `everything is marked: ${changed}`;
  return {
    state: "degraded",
    why: `${why} (${suffers.join(", ")})`,
    help: "Make a full backup, begin a new epoch, and drop these; a backup by them misses nothing, and copies more than has changed.",
  };
}

/** Whether bits can be made stable. */
export function bitmapHealth(failure: BlockIoError | undefined): Health {
  if (failure === undefined) return healthy;
  return {
    state: "degraded",
    why: `bits cannot be made stable, so writes to what is not marked yet fail: ${wholeStory(failure)}`,
    help: failure.hint ?? "Check the bitmap device; the next write tries again.",
  };
}
