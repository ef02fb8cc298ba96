/**
 * Structured replies to READ that tell holes instead of sending their zeroes.
 *
 * Asking a device for its extents costs more than reading a few blocks, so only long reads are worth it, and
 * only as long as the answers show holes; see {@link HoleSense}.
 */
import { type ByteAccess, join } from "@dmkit/block-io";
import {
  REPLY_FLAG,
  type RequestHeader,
  dataChunkOverhead,
  encodeDataChunkHeader,
  encodeHoleChunk,
  holeChunkLength,
} from "../../protocol.ts";
import type { SizedBufferPool } from "../io/buffer-pool.ts";
import { type Slab, slabOf } from "../io/outbox.ts";

// Bytes; shorter reads are just read.
const LEAST_READ = 64 * 1024;
// Bytes; a shorter hole is sent as zeroes: its chunk would save next to nothing.
const LEAST_HOLE = 4096;
// Chunks in one reply; what follows is sent as data.
const MOST_CHUNKS = 64;
// Extents that are looked at; what follows is sent as data. A device may hand them out without ever waiting.
const MOST_EXTENTS = 256;
// Reads that are let go without asking after many answers without holes.
const LONGEST_BREAK = 32;

/** Decides whether asking for extents is likely to pay, from what earlier answers said. */
export class HoleSense {
  readonly #possible: boolean;
  // Reads to let go before asking again, and how many that were last time.
  #skip = 0;
  #pause = 0;

  /** @param possible whether the client understands hole chunks and the device knows its holes. */
  constructor(possible: boolean) {
    this.#possible = possible;
  }

  /** Whoever is told so asks. */
  worthAsking(length: number): boolean {
    if (!this.#possible || length < LEAST_READ) return false;
    if (this.#skip > 0) {
      this.#skip -= 1;
      return false;
    }
    // Those that came with this one do not ask as well before it has its answer.
    this.#skip = this.#pause;
    return true;
  }

  /** @param holes whether the last answer showed any. */
  learned(holes: boolean): void {
    this.#pause = holes ? 0 : Math.min(LONGEST_BREAK, this.#pause * 2 + 1);
    this.#skip = this.#pause;
  }
}

interface Piece {
  readonly offset: number;
  length: number;
  readonly hole: boolean;
}

/** A whole reply of data and hole chunks. Rejects with the device's error if any part cannot be read. */
export async function sparseReply(
  access: ByteAccess,
  pool: SizedBufferPool,
  request: Readonly<RequestHeader>,
): Promise<{ reply: Slab; holes: boolean }> {
  // A request's object is used again once it was answered; these are ours.
  const { extended, cookieHigh, cookieLow, offset, length } = request;
  const asked = { extended, cookieHigh, cookieLow, offset };
  const holeLength = holeChunkLength(extended);
  const overhead = dataChunkOverhead(extended);
  const pieces = await piecesOf(access, offset, length);
  let size = 0;
  for (const piece of pieces) size += piece.hole ? holeLength : overhead + piece.length;
  const reply = pool.take(size);
  const reads: Promise<void>[] = [];
  let at = 0;
  for (const [index, piece] of pieces.entries()) {
    const flags = index === pieces.length - 1 ? REPLY_FLAG.DONE : 0;
    if (piece.hole) {
      encodeHoleChunk(reply, at, asked, flags, piece.offset, piece.length);
      at += holeLength;
    } else {
      encodeDataChunkHeader(reply, at, asked, flags, piece.offset, piece.length);
      at += overhead;
      reads.push(access.read(piece.offset, reply.subarray(at, at + piece.length)));
      at += piece.length;
    }
  }
  // All of them have to end, even if one fails: they read into the reply.
  try {
    await join(reads);
  } catch (error) {
    pool.give(reply);
    throw error;
  }
  return { reply: slabOf(reply, size, true), holes: pieces.some(({ hole }) => hole) };
}

/** The range as alternating data and holes. */
async function piecesOf(access: ByteAccess, offset: number, length: number): Promise<readonly Piece[]> {
  const { device } = access;
  const block = device.limits.logicalBlockSize;
  const start = Math.floor(offset / block) * block;
  const end = Math.ceil((offset + length) / block) * block;
  const pieces: Piece[] = [];
  let covered = offset;
  let walked = 0;
  for await (const extent of device.extents(start, end - start)) {
    const from = Math.max(extent.offset, offset);
    const to = Math.min(extent.offset + extent.length, offset + length);
    walked += 1;
    if (to <= from) continue;
    const last = pieces.at(-1);
    const full = pieces.length >= MOST_CHUNKS - 1;
    const hole = extent.kind !== "data" && to - from >= LEAST_HOLE && !full;
    if (last !== undefined && last.hole === hole) last.length += to - from;
    else pieces.push({ offset: from, length: to - from, hole });
    covered = to;
    if (full || walked >= MOST_EXTENTS) break;
  }
  if (covered < offset + length) {
    const last = pieces.at(-1);
    if (last !== undefined && !last.hole) last.length += offset + length - covered;
    else pieces.push({ offset: covered, length: offset + length - covered, hole: false });
  }
  return pieces;
}
