/**
 * What becomes of a cache whose table has gone.
 *
 * Invariant: a cache whose disk goes on without it is none any more when the first request goes on. What it still has of
 * that disk grows old with each write that goes past it, and no look at the disk could tell whoever puts it back.
 */
import { type Logger, type Segment, ZeroDevice, codeOf } from "@dmkit/block-io";
import type { OpenedTable } from "../device/opened-table.ts";

interface Retiring {
  readonly logger: Logger;
  readonly open: (segments: readonly Segment[], readOnly: boolean) => Promise<OpenedTable>;
}

/** @param lines that have brought home all they had. A device that somebody else uses by now is left alone. */
export async function retire(
  device: string,
  lines: readonly Segment[],
  { logger, open }: Retiring,
): Promise<void> {
  for (const { target, options, length } of lines) {
    if (target.retire === undefined) continue;
    // Opened as a table is, so that its devices are found, locked and claimed as for one.
    const retiring: Segment["target"] = {
      ...target,
      uses: () => [],
      check: () => Promise.resolve(),
      async open(given, context) {
        await target.retire?.(given, context);
        return new ZeroDevice(context.size, target.name);
      },
    };
    try {
      await (await open([{ start: 0, length, target: retiring, options }], false)).close();
    } catch (error) {
      if (codeOf(error) === "EBUSY") continue;
      const text = "a cache that is not used any more could not be erased: do not put it back, format it";
      logger.log("warn", text, { device, target: target.name, error: String(error) });
    }
  }
}
