/** BLOCK_STATUS: the descriptors of one metadata context for a range of bytes. */
import { type BlockDevice, BlockIoError } from "@dmkit/block-io";
import { CMD_FLAG, REPLY_FLAG, type RequestHeader, encodeBlockStatusChunk } from "../protocol.ts";
import type { MetaContext } from "./meta-contexts.ts";

/**
 * Pairs of length and status, at least one, which start at `offset` and do not reach past the range.
 * Neighbours differ in status.
 * @param most descriptors; what does not fit is left for the client's next query.
 */
export async function describeRange(
  context: MetaContext,
  device: BlockDevice,
  offset: number,
  length: number,
  most: number,
): Promise<number[]> {
  const block = device.limits.logicalBlockSize;
  const start = Math.floor(offset / block) * block;
  const end = Math.ceil((offset + length) / block) * block;
  const descriptors: number[] = [];
  let at = start;
  for await (const extent of context.describe(device, start, end - start)) {
    // The outer blocks are asked about, the client's bytes are answered for.
    const from = Math.max(at, offset);
    const to = Math.min(at + extent.length, offset + length);
    at += extent.length;
    if (to <= from) continue;
    const last = descriptors.length - 1;
    if (last > 0 && descriptors[last] === extent.status) {
      descriptors[last - 1] = (descriptors[last - 1] as number) + (to - from);
    } else if (descriptors.length === 2 * most) {
      break;
    } else {
      descriptors.push(to - from, extent.status);
    }
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

/** A metadata context a client has chosen, under the number it got for it. */
export interface SelectedContext {
  readonly id: number;
  readonly context: MetaContext;
}

/** The whole reply: one chunk for each context, the last one final. */
export async function statusReply(
  contexts: readonly SelectedContext[],
  device: BlockDevice,
  request: Readonly<RequestHeader>,
  most: number,
): Promise<Buffer> {
  const { cookieHigh, cookieLow, offset, length, flags } = request;
  const count = (flags & CMD_FLAG.REQ_ONE) === 0 ? most : 1;
  const chunks: Buffer[] = [];
  for (const { id, context } of contexts) {
    const descriptors = await describeRange(context, device, offset, length, count);
    const final = chunks.length === contexts.length - 1 ? REPLY_FLAG.DONE : 0;
    chunks.push(encodeBlockStatusChunk(final, cookieHigh, cookieLow, id, descriptors));
  }
  return chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks);
}
