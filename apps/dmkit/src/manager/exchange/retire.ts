/**
 * What becomes of a cache whose table has gone, or of bitmaps.
 *
 * Invariant: what tells of a disk is worth nothing any more when the first request goes past it, however many tables were
 * in place since, or failed to be: what has gone is remembered until a table has it again, or one that can write has not.
 * What a cache still has grows old with each write that it does not see, bitmaps lack what that changed, and no look at the
 * disk could tell whoever puts them back. Where it has what could not be written back, and that was agreed to, it is only
 * marked: nobody puts it back without a word, and nothing is lost that somebody may still want.
 */
import { type Segment, ZeroDevice, codeOf } from "@dmkit/block-io";
import type { ExchangeContext } from "./context.ts";
import type { GoneLine, InactiveTable, ManagedDevice } from "../device/managed-device.ts";
import { hasLineOver } from "../references.ts";

/** Remembers the lines of a table that is closed. @param isHome those whose devices have all that they had. */
export function remember(
  managed: ManagedDevice,
  lines: readonly Segment[],
  isHome: readonly Segment[],
): void {
  const { files } = managed;
  const telling = lines.filter(({ target }) => target.retire !== undefined);
  managed.gone = [
    ...managed.gone,
    ...telling.map((line) => ({ line, isHome: isHome.includes(line), files })),
  ];
}

/** Forgets those that are in place again. */
export function forgetBack(managed: ManagedDevice, segments: readonly Segment[]): void {
  managed.gone = managed.gone.filter(({ line }) => !segments.includes(line) && !hasLineOver(segments, line));
}

/**
 * Makes the lines that have gone, and that the table in place has not, worthless, if it can write. A device that somebody
 * else uses by now is left alone, and so is what stands behind a path in place of the file that was there.
 */
export async function retire(
  managed: ManagedDevice,
  { segments, readOnly }: Pick<InactiveTable, "segments" | "readOnly">,
  { logger, open }: Pick<ExchangeContext, "logger" | "open">,
): Promise<void> {
  forgetBack(managed, segments);
  // Where nobody can write nothing grows old.
  if (readOnly) return;
  // Looked up each time: a device may get another name meanwhile.
  for (let index = 0; index < managed.gone.length; index += 1) {
    const { line, isHome, files } = managed.gone[index] as GoneLine;
    const { target, options, length } = line;
    const isLeft = !isHome && target.leave !== undefined;
    if (!isLeft && target.retire === undefined) continue;
    // Opened as a table is, so that its devices are found, locked and claimed as for one.
    const retiring: Segment["target"] = {
      ...target,
      uses: () => [],
      check: () => Promise.resolve(),
      async open(given, context) {
        await (isLeft ? target.leave?.(given, context) : target.retire?.(given, context));
        return new ZeroDevice(context.size, target.name);
      },
    };
    try {
      await (await open([{ start: 0, length, target: retiring, options }], false, files)).close();
    } catch (error) {
      const isTaken = codeOf(error) === "EBUSY";
      const text = isTaken
        ? "what is not used any more is somebody else's by now, and was left as it is"
        : "what is not used any more could not be marked as such: do not put it back, format it";
      logger.log(isTaken ? "info" : "warn", text, {
        device: managed.name,
        target: target.name,
        error: String(error),
      });
    }
  }
  managed.gone = [];
}
