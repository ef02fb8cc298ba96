/**
 * What a cache device was made as, order and dialect, and what is asked for: where these differ the device is refused
 * before anything is written. Read as another dialect every segment looks torn, and recovery empties what is torn.
 *
 * The identity record says it where there is one. Where there is none the segments show it: by the checksums that hold.
 */
import { type BlockDevice, type BlockIoError, codeOf, refuse } from "@dmkit/block-io";
import type { Dialect } from "../format/checksum.ts";
import { type Geometry, MAX_ORDER } from "../format/geometry.ts";
import type { ScanOptions } from "./scan-options.ts";
import type { SlotScanner } from "./slot-scanner.ts";

/** The heads of all slots, read as those of a ring. */
export interface ReadRing {
  readonly geometry: Geometry;
  readonly scanner: SlotScanner;
}

/** Throws `EINVAL` where another dialect is asked for. */
export function requireDialect(cache: BlockDevice, stored: Dialect, given: Dialect | undefined): void {
  if (given === undefined || given === stored) return;
  const table =
    given === "v2"
      ? ' A table of the later drivers, without a type, is always v2: write it with the type, "0 <backing> <cache>".'
      : "";
  throw contradiction(
    cache,
    `the device is a cache of the ${stored} dialect, not of ${given}`,
    `Leave dialect out, or say ${stored}.${table}`,
  );
}

/** Throws `EINVAL` where another order is asked for. */
export function requireOrder(cache: BlockDevice, stored: number, given: number | undefined): void {
  if (given === undefined || given === stored) return;
  throw contradiction(
    cache,
    `the device has segment_size_order ${stored}, not ${given}`,
    `Leave segment_size_order out, or say ${stored}.`,
  );
}

function contradiction(cache: BlockDevice, reason: string, hint: string): BlockIoError {
  return refuse(cache.name, "EINVAL", reason, `${hint} Nothing has been written.`);
}

/**
 * Of a device without identity record. The byte of the order counts for classic alone, and later drivers leave in it
 * whatever was there; so where no checksum holds in a ring of that order, one of order 10 is looked at, too. Where the
 * segments show nothing, what is given counts.
 * @param stored the order in the superblock, if that is one.
 * @param read throws `EFORMAT` where there can be no ring of that order. Throws that, `EINVAL`, and what devices throw.
 */
export async function formatShown(
  cache: BlockDevice,
  stored: number | undefined,
  options: ScanOptions,
  read: (order: number) => Promise<ReadRing>,
): Promise<ReadRing & { readonly dialect: Dialect }> {
  const { dialect: given } = options;
  const said = stored ?? MAX_ORDER;
  const orders = given === "v2" ? [MAX_ORDER, said] : [said, MAX_ORDER];
  let first: ReadRing | undefined;
  let refusal: unknown;
  for (const order of new Set(orders)) {
    const ring = await read(order).catch((error: unknown) => {
      if (codeOf(error) !== "EFORMAT") throw error;
      refusal ??= error;
    });
    if (ring === undefined) continue;
    const shown = await ring.scanner.detect();
    if (shown !== undefined) {
      requireDialect(cache, shown, given);
      const whole = shown === "v2" && order !== MAX_ORDER ? await read(MAX_ORDER) : ring;
      requireOrder(cache, whole.geometry.order, options.order);
      return { ...whole, dialect: shown };
    }
    if (refusal === undefined) first ??= ring;
    // The heads of larger segments are among these.
    if (order === said && !ring.scanner.isUsed) break;
  }
  if (first === undefined) throw refusal;
  requireOrder(cache, first.geometry.order, options.order);
  return { ...first, dialect: given ?? (stored === undefined ? "v2" : "classic") };
}
