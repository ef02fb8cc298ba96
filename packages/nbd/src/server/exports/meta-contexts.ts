/**
 * Metadata contexts: what BLOCK_STATUS can tell about an export. One entry each; `base:allocation` is the
 * first, and an export may bring more (`dmkit:layer`, `qemu:dirty-bitmap:NAME` …).
 */
import type { BlockDevice } from "@dmkit/block-io";
import { BASE_ALLOCATION, STATE } from "../../protocol.ts";

/** A piece of a range and its status flags, whose meaning is the context's. */
export interface StatusExtent {
  /** Bytes, at least 1. */
  readonly length: number;
  /** 32 bits. */
  readonly status: number;
}

/** A metadata context that an export offers. */
export interface MetaContext {
  /** `namespace:leaf`. */
  readonly name: string;
  /**
   * Describes the range in order, without gaps; neighbours of equal status are merged by the caller, who may
   * also stop early. The range is aligned to the device's logical block size and not empty.
   */
  describe(device: BlockDevice, offset: number, length: number): AsyncIterable<StatusExtent>;
}

const statusOfKind = {
  data: 0,
  zero: STATE.ZERO,
  hole: STATE.HOLE | STATE.ZERO,
} as const;

/** Which ranges are allocated and which read as zeroes. */
export const baseAllocation: MetaContext = {
  name: BASE_ALLOCATION,
  async *describe(device, offset, length) {
    if (!device.limits.capabilities.extents) {
      yield { length, status: statusOfKind.data };
      return;
    }
    for await (const extent of device.extents(offset, length)) {
      yield { length: extent.length, status: statusOfKind[extent.kind] };
    }
  },
};

/** The contexts of `available` that a query selects; `wildcards` also lets `namespace:` mean all of it. */
export function matchingContexts(
  available: readonly MetaContext[],
  query: string,
  wildcards: boolean,
): readonly MetaContext[] {
  if (wildcards && query.endsWith(":")) return available.filter(({ name }) => name.startsWith(query));
  return available.filter(({ name }) => name === query);
}
