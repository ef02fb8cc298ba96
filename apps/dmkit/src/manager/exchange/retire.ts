/**
 * What becomes of a cache whose table has gone, or of bitmaps.
 *
 * Invariant: what tells of a disk is worth nothing any more when the first request goes past it. What a cache still has
 * grows old with each write that it does not see, bitmaps lack what that changed, and no look at the disk could tell whoever puts
 * them back. Where it has what could not be written back, and that was agreed to, it is only marked: nobody puts it back
 * without a word, and nothing is lost that somebody may still want.
 */
import { type Segment, ZeroDevice, codeOf } from "@dmkit/block-io";
import type { ExchangeContext } from "./context.ts";
import type { ExchangedTables, ManagedDevice } from "../device/managed-device.ts";

/**
 * Makes the lines that have gone worthless. A device that somebody else uses by now is left alone, and so is what stands
 * behind a path in place of the file that was there.
 */
export async function retire(
  { name, files }: ManagedDevice,
  tables: Pick<ExchangedTables, "gone" | "isHome">,
  { logger, open }: Pick<ExchangeContext, "logger" | "open">,
): Promise<void> {
  // Looked up each time: a device may get another name meanwhile.
  for (let index = 0; index < tables.gone.length; index += 1) {
    const { target, options, length } = tables.gone[index] as Segment;
    const isLeft = !tables.isHome && target.leave !== undefined;
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
        device: name,
        target: target.name,
        error: String(error),
      });
    }
  }
}
