/**
 * Extents to payloads and back. Compressions run in parallel, each in a stream of its own, unless everything is
 * to be done at once (the simulation, where nothing may depend on threads).
 */
import { BlockIoError, type ErrorCode, isErrorCode } from "@dmkit/block-io";
import { type Compressor, CompressorError, createCompressor } from "@dmkit/compressor";
import { BLOCK, MAX_EXTENT } from "../format/geometry-v1.ts";
import { compressedPart, compressionLimit, encodePayload } from "../format/payload.ts";

/** What {@link Codec.decode} could not make sense of. */
export type Damage = "length word" | "decompression" | "length";

/** Why the contents of an extent are not known. `unreadable`: the device below does not give the payload. */
export type Flaw = Damage | "checksum" | "unreadable" | "metadata";

export class Codec {
  readonly #compressor: Compressor;
  readonly #synchronous: boolean;
  /** Extents that were decompressed, or a part of them. */
  decompressed = 0;

  constructor(compressor: Compressor, synchronous: boolean) {
    this.#compressor = compressor;
    this.#synchronous = synchronous;
  }

  get algorithm(): string {
    return this.#compressor.name;
  }

  /** The payload of whole blocks; `data` itself if compressing it saves no sector. */
  async encode(data: Buffer): Promise<Buffer> {
    const limit = compressionLimit(data.length);
    const stream = this.#compressor.tryAcquire() ?? (await this.#compressor.acquire());
    try {
      const length = this.#synchronous
        ? stream.compressSync(data, limit)
        : await stream.compress(data, limit);
      // The stream's buffer is somebody else's as soon as the stream is released.
      return length > 0 ? encodePayload(stream.output, length) : data;
    } finally {
      stream.release();
    }
  }

  /**
   * Fills whole blocks from a payload; what is wrong with it, if anything is. Errors: `ENOMEM`, `EIO` of the algorithm, which
   * say nothing of the payload.
   */
  async decode(payload: Buffer, into: Buffer): Promise<Damage | undefined> {
    if (payload.length === into.length) {
      payload.copy(into);
      return undefined;
    }
    const compressed = compressedPart(payload);
    if (compressed === undefined) return "length word";
    this.decompressed += 1;
    try {
      const length = this.#synchronous
        ? this.#compressor.decompressSync(compressed, into)
        : await this.#compressor.decompress(compressed, into);
      return length === into.length ? undefined : "length";
    } catch (error) {
      return damageBy(error);
    }
  }

  /** Fills `into` with what an extent of `length` bytes has from byte `at` on; as {@link decode}. */
  decodePart(
    payload: Buffer,
    length: number,
    at: number,
    into: Buffer,
  ): Damage | undefined | Promise<Damage | undefined> {
    if (payload.length === length) {
      payload.copy(into, 0, at, at + into.length);
      return undefined;
    }
    const compressed = compressedPart(payload);
    if (compressed !== undefined) {
      try {
        const count = this.#compressor.decompressPartSync(compressed, into, at, length);
        if (count !== undefined) {
          this.decompressed += 1;
          return count === into.length ? undefined : "length";
        }
      } catch (error) {
        return damageBy(error);
      }
    }
    return this.#decodeWhole(payload, length, at, into);
  }

  async #decodeWhole(payload: Buffer, length: number, at: number, into: Buffer): Promise<Damage | undefined> {
    if (into.length === length) return this.decode(payload, into);
    const contents = Buffer.allocUnsafe(length);
    const damage = await this.decode(payload, contents);
    contents.copy(into, 0, at, at + into.length);
    return damage;
  }

  close(): Promise<void> {
    return this.#compressor.close();
  }
}

/** Damage is what the algorithm says is damage: a payload that could not be looked at is not to be given up for it. */
function damageBy(error: unknown): Damage {
  if (!(error instanceof CompressorError) || error.code === "EFORMAT") return "decompression";
  const code = isErrorCode(error.code) ? error.code : "EIO";
  const hint = error.hint ?? "Nothing is damaged: try again, when there is memory.";
  throw new BlockIoError(`a payload could not be decompressed: ${error.reason}`, {
    code,
    op: "read",
    cause: error,
    hint,
  });
}

/** Throws what {@link openCodec} does; for a device that is to be made, before anything is written. */
export async function requireWorking(algorithm: string, name: string): Promise<void> {
  await (await openCodec(algorithm, name, true, 1)).close();
}

/** Errors: `ENOENT`, `ENOTSUP` of the algorithm, `EINVAL` of the level. */
export async function openCodec(
  algorithm: string,
  name: string,
  synchronous: boolean,
  streams?: number,
  level?: number,
): Promise<Codec> {
  try {
    const maxInput = MAX_EXTENT * BLOCK;
    const compressor = await createCompressor(algorithm, {
      maxInput,
      maxStreams: streams,
      level,
      idleTime: 0,
      ...(synchronous && { threads: 0 }),
    });
    return new Codec(compressor, synchronous);
  } catch (error) {
    if (!(error instanceof CompressorError)) throw error;
    const code: ErrorCode = isErrorCode(error.code) ? error.code : "EINVAL";
    throw new BlockIoError(error.reason, { code, device: name, op: "open", cause: error, hint: error.hint });
  }
}
