/**
 * Extents as the contract has them: in order, without gaps, and an answer for all of the range. Where a device cannot tell,
 * because what is below does not answer or was cut short, there may be data: who reads there is told what is wrong with
 * reading, and everybody else goes on.
 */
import type { Extent } from "./device.ts";
import type { BlockIoError } from "./errors.ts";

/** Whom the device's name and place are known to. */
interface Reports {
  /** The error of a device that answers what cannot be. */
  broken(reason: string, offset: number, length: number): BlockIoError;
  /** The error of one that cannot answer. */
  failed(error: unknown): BlockIoError;
}

// Then reading fails as well, and whoever asks had better know at once.
function isGone({ code }: BlockIoError): boolean {
  return code === "ESHUTDOWN" || code === "ENOTCONN" || code === "EPROTO" || code === "ETIMEDOUT";
}

/**
 * What was `found` of a range of bytes, and data where that ends early. Rejects with what says that the device is gone, or
 * breaks its protocol, and with `EIO` for extents that contradict each other.
 */
export async function* covering(
  found: AsyncIterable<Extent>,
  offset: number,
  length: number,
  reports: Reports,
): AsyncGenerator<Extent> {
  const end = offset + length;
  const extents = found[Symbol.asyncIterator]();
  let at = offset;
  try {
    while (at < end) {
      const next = await extents.next().catch((error: unknown) => reports.failed(error));
      if (next instanceof Error) {
        if (isGone(next)) throw next;
        yield { offset: at, length: end - at, kind: "data" };
        return;
      }
      if (next.done === true) throw reports.broken(`extents end at ${at}`, offset, length);
      const extent = next.value;
      if (extent.offset !== at || extent.length <= 0 || extent.length > end - at) {
        throw reports.broken(`extents are not contiguous at ${at}`, extent.offset, extent.length);
      }
      at += extent.length;
      yield extent;
    }
    const more = await extents.next();
    if (more.done !== true) {
      throw reports.broken(`extents are not contiguous at ${at}`, more.value.offset, more.value.length);
    }
  } finally {
    await extents.return?.();
  }
}
