/**
 * The terms of a connection: what was agreed in the handshake, and what it means for a block device.
 *
 * Invariant: the limits of a device hold for as long as it is open, so every later connection must come with
 * terms that keep them ({@link breachOf}).
 */
import { type Limits, BlockIoError, SECTOR, plainLimits, refuse } from "@dmkit/block-io";
import {
  type BlockSizes,
  DEFAULT_MAX_PAYLOAD,
  DEFAULT_MIN_BLOCK,
  DEFAULT_PREFERRED_BLOCK,
  FLAG,
  MAX_MIN_BLOCK,
  protocolError,
} from "../protocol.ts";
import type { ExportInfo, Handshake } from "./wire/handshake.ts";

export interface Terms {
  /** Bytes, as the server tells it. */
  readonly size: number;
  /** Transmission flags. */
  readonly flags: number;
  readonly blockSizes: BlockSizes;
  /** Replies come in chunks. */
  readonly structured: boolean;
  /** All headers are extended ones: lengths have 64 bits. */
  readonly extended: boolean;
  /** Metadata context id of `base:allocation`, if block status was agreed on. */
  readonly allocationId: number | undefined;
  readonly description: string | undefined;
}

/** How the limits of a device follow from the terms. */
export interface DeviceChoices {
  readonly readOnly: boolean;
  /** Serve whole blocks only where the size is not a multiple of them. */
  readonly wholeBlocks: boolean;
  /** Believe that answered writes are stable if the server has neither FLUSH nor FUA. */
  readonly writeThrough: boolean;
}

/** Runs the handshake to its end. */
export async function agree(handshake: Handshake, exportName: string): Promise<Terms> {
  let extended = false;
  let structured = false;
  let allocationId: number | undefined;
  if (handshake.fixedNewstyle) {
    extended = await handshake.extendedHeaders();
    structured = extended || (await handshake.structuredReplies());
    if (structured) allocationId = await handshake.allocationContext(exportName);
  }
  const info = await handshake.go(exportName);
  return {
    size: info.size,
    flags: info.flags,
    blockSizes: blockSizesOf(info),
    structured,
    extended,
    allocationId,
    description: info.description,
  };
}

/** Throws `EPROTO` for sizes the protocol does not allow and that cannot be worked with. */
function blockSizesOf({ size, flags, blockSizes }: ExportInfo): BlockSizes {
  if (!Number.isSafeInteger(size)) throw protocolError(`the export claims ${size} bytes, 2^53 or more`);
  if ((flags & FLAG.HAS_FLAGS) === 0) throw protocolError("the server sent no transmission flags");
  if (blockSizes === undefined) {
    return {
      minimum: DEFAULT_MIN_BLOCK,
      preferred: DEFAULT_PREFERRED_BLOCK,
      maximumPayload: DEFAULT_MAX_PAYLOAD,
    };
  }
  const { minimum, preferred, maximumPayload } = blockSizes;
  if (!isPowerOfTwo(minimum) || minimum > MAX_MIN_BLOCK) {
    throw protocolError(
      `the server asks for blocks of ${minimum} bytes, which is no power of two up to 64 KiB`,
    );
  }
  if (maximumPayload < minimum) {
    throw protocolError(`the server takes at most ${maximumPayload} bytes, less than a block of ${minimum}`);
  }
  return { minimum, preferred, maximumPayload };
}

/** Bytes; the unit of requests that suits the server. Throws `EINVAL` if it is more than 4096. */
function logicalBlockSizeOf({ blockSizes: { minimum, maximumPayload } }: Terms): 512 | 4096 {
  const block = minimum <= 512 ? 512 : 4096;
  if (minimum > block || maximumPayload < block) {
    throw new BlockIoError(
      `the server takes requests in units of ${minimum} up to ${maximumPayload} bytes; a device needs 512 or 4096`,
      { code: "EINVAL", op: "open", hint: "Let the server serve blocks of at most 4096 bytes." },
    );
  }
  return block;
}

/** Bytes a device may use of the export. Throws `EINVAL` if that is not all of it and nobody said it is fine. */
export function usableSize(terms: Terms, { wholeBlocks }: DeviceChoices): number {
  const block = logicalBlockSizeOf(terms);
  const rest = terms.size % block;
  if (rest === 0 || wholeBlocks) return terms.size - rest;
  throw new BlockIoError(`the export has ${terms.size} bytes, which is not a multiple of ${block}`, {
    code: "EINVAL",
    op: "open",
    hint: `Extend the image by ${block - rest} bytes, or leave out the last ${rest} bytes with whole-blocks=1 in the URI (option wholeBlocks).`,
  });
}

/** Throws `EINVAL` for block sizes that do not fit, `ENOTSUP` for a server that cannot make writes stable. */
export function limitsOf(terms: Terms, choices: DeviceChoices): Limits {
  const { flags, blockSizes } = terms;
  const logicalBlockSize = logicalBlockSizeOf(terms);
  const has = (flag: number): boolean => (flags & flag) !== 0;
  const readOnly = choices.readOnly || has(FLAG.READ_ONLY);
  const durable = has(FLAG.SEND_FUA) || has(FLAG.SEND_FLUSH);
  if (!readOnly && !durable && !choices.writeThrough) {
    throw refuse(
      undefined,
      "ENOTSUP",
      "the server offers neither FLUSH nor FUA, so nothing written is known to be stable",
      "Switch flush on at the server (nbd-server: flush = true), open the export read-only, or, if it stores every write before it answers, say so with write-through=1 in the URI (option writeThrough).",
    );
  }
  const physicalBlockSize = powerOfTwoBetween(blockSizes.preferred, logicalBlockSize, 1024 * 1024);
  return {
    logicalBlockSize,
    physicalBlockSize,
    optimalTransfer: Math.max(physicalBlockSize, plainLimits.optimalTransfer),
    discardGranularity: physicalBlockSize,
    capabilities: {
      readOnly,
      fua: has(FLAG.SEND_FUA) || !durable ? "native" : "emulated",
      discard: has(FLAG.SEND_TRIM) ? "native" : "none",
      // The protocol promises nothing of what a trimmed range reads as.
      discardZeroes: false,
      writeZeroes: has(FLAG.SEND_WRITE_ZEROES) ? "native" : "emulated",
      fastZero: has(FLAG.SEND_WRITE_ZEROES) && has(FLAG.SEND_FAST_ZERO),
      extents: terms.allocationId !== undefined,
    },
  };
}

/** Bytes; the most to put into one READ or WRITE. A multiple of the logical block size. */
export function payloadLimit({ blockSizes }: Terms, logicalBlockSize: number): number {
  const most = Math.min(blockSizes.maximumPayload, DEFAULT_MAX_PAYLOAD);
  return most - (most % logicalBlockSize);
}

/** What a server that learns or forgets extended headers may change: it is not used here. */
const INDIFFERENT = FLAG.BLOCK_STATUS_PAYLOAD;

/** Why `now` cannot take the place of `before` under an open device, or undefined if it can. */
export function breachOf(before: Terms, now: Terms): string | undefined {
  if (now.size !== before.size) return `the size changed from ${before.size} to ${now.size} bytes`;
  if (((now.flags ^ before.flags) & ~INDIFFERENT) !== 0) {
    return `the transmission flags changed from 0x${before.flags.toString(16)} to 0x${now.flags.toString(16)}`;
  }
  if (now.blockSizes.minimum > Math.max(before.blockSizes.minimum, SECTOR))
    return "the minimum block size grew";
  if (now.blockSizes.maximumPayload < before.blockSizes.maximumPayload) return "the maximum payload shrank";
  if (before.allocationId !== undefined && now.allocationId === undefined) return "block status is gone";
  // Requests of more than 32 bits of length may be waiting, or have to be repeated.
  if (before.extended && !now.extended) return "extended headers are gone";
  return undefined;
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && (value & (value - 1)) === 0;
}

function powerOfTwoBetween(value: number, least: number, most: number): number {
  let power = least;
  while (power < value && power < most) power *= 2;
  return power;
}
