/**
 * BLOCK_STATUS: the descriptors of one metadata context for a range of bytes.
 *
 * A header from a client can ask for any number of extents. A device may hand them out without ever waiting, so it is
 * the walk that lets the event loop turn, and that ends.
 */
import { type BlockDevice, BlockIoError, type Scheduler, nextTurn } from "@dmkit/block-io";
import {
  CMD_FLAG,
  REPLY_FLAG,
  type RequestHeader,
  decodeStatusQuery,
  encodeBlockStatusChunk,
  protocolError,
} from "../../protocol.ts";
import type { MetaContext, StatusExtent } from "../exports/meta-contexts.ts";

// Extents between two turns of the event loop.
const EXTENTS_PER_TURN = 256;
// Extents that are looked at only because they may make the last descriptor longer.
const MOST_TO_MERGE = 256;
/**
 * Bytes; what a device is asked about, or has to change, at a time. It may go through a range block by block without ever
 * waiting.
 */
export const RANGE_PIECE: number = 16 * 1024 * 1024 * 1024;
// Extents that are looked at in all, however few descriptors they make: as many as 4 GiB have in blocks of 4 KiB.
const MOST_WALKED = 1024 * 1024;

/** What a walk over extents may use. */
export interface WalkLimits {
  readonly scheduler: Scheduler;
  /** Descriptors for each context; what does not fit is left for the client's next query. */
  readonly descriptors: number;
}

/**
 * Pairs of length and status, at least one, which start at `offset` and do not reach past the range.
 * Neighbours differ in status.
 */
export async function describeRange(
  context: MetaContext,
  device: BlockDevice,
  offset: number,
  length: number,
  { scheduler, descriptors: most }: WalkLimits,
): Promise<number[]> {
  const block = device.limits.logicalBlockSize;
  const start = Math.floor(offset / block) * block;
  const end = Math.ceil((offset + length) / block) * block;
  const descriptors: number[] = [];
  let at = start;
  let walked = 0;
  let merged = 0;
  for await (const extent of extentsOf(context, device, start, end, scheduler)) {
    // The outer blocks are asked about, the client's bytes are answered for.
    const from = Math.max(at, offset);
    const to = Math.min(at + extent.length, offset + length);
    at += extent.length;
    walked += 1;
    if (walked % EXTENTS_PER_TURN === 0) await nextTurn(scheduler);
    if (to <= from) continue;
    const last = descriptors.length - 1;
    const full = descriptors.length === 2 * most;
    if (last > 0 && descriptors[last] === extent.status) {
      descriptors[last - 1] = (descriptors[last - 1] as number) + (to - from);
    } else if (full) {
      break;
    } else {
      descriptors.push(to - from, extent.status);
    }
    if (full) merged += 1;
    if (merged === MOST_TO_MERGE || walked === MOST_WALKED) break;
  }
  if (descriptors.length === 0) {
    throw new BlockIoError(`${context.name} described nothing`, {
      code: "EIO",
      device: device.name,
      op: "extents",
      offset,
      length,
    });
  }
  return descriptors;
}

async function* extentsOf(
  context: MetaContext,
  device: BlockDevice,
  start: number,
  end: number,
  scheduler: Scheduler,
): AsyncIterable<StatusExtent> {
  for (let at = start, stop = start; at < end && at >= stop; ) {
    if (at > start) await nextTurn(scheduler);
    stop = Math.min(end, at - (at % RANGE_PIECE) + RANGE_PIECE);
    for await (const extent of context.describe(device, at, stop - at)) {
      at += extent.length;
      yield extent;
    }
  }
}

/** A metadata context a client has chosen, under the number it got for it. */
export interface SelectedContext {
  readonly id: number;
  readonly context: MetaContext;
}

/**
 * What a payload selects of the negotiated contexts, and the length of the range. Throws `EPROTO` if it is malformed, or
 * names what was not negotiated.
 */
export function narrowed(
  contexts: readonly SelectedContext[],
  payload: Uint8Array,
): { length: number; contexts: SelectedContext[] } {
  const { length, contextIds } = decodeStatusQuery(payload);
  const selected = contextIds.map((wanted) => {
    const found = contexts.find(({ id }) => id === wanted);
    if (found === undefined) throw protocolError(`metadata context ${wanted} was not negotiated`);
    return found;
  });
  return { length, contexts: selected };
}

/** The whole reply: one chunk for each context, the last one final. */
export async function statusReply(
  contexts: readonly SelectedContext[],
  device: BlockDevice,
  request: Readonly<RequestHeader>,
  limits: WalkLimits,
): Promise<Buffer> {
  const { offset, length, flags } = request;
  const asked = (flags & CMD_FLAG.REQ_ONE) === 0 ? limits : { ...limits, descriptors: 1 };
  const chunks: Buffer[] = [];
  for (const { id, context } of contexts) {
    const descriptors = await describeRange(context, device, offset, length, asked);
    const final = chunks.length === contexts.length - 1 ? REPLY_FLAG.DONE : 0;
    chunks.push(encodeBlockStatusChunk(request, final, id, descriptors));
  }
  return chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks);
}
