/**
 * Writes the log objects of one epoch, one after the other.
 *
 * Invariants:
 *
 * - number n + 1 is sent only when n is known to be there with our bytes;
 * - the bytes of a number never change once they were sent: what was sent may land at any time, also after a failure. So
 *   a failed write is tried again with the same bytes until its outcome is known;
 * - what is there already and is not ours ends it for good: another epoch has begun.
 *
 * A fence alone would tell a writer that was replaced, and whoever replaces it has to come up with it first. So it looks
 * for the next epoch now and then, and writes no more once that has begun: a takeover ends, however fast it writes, and one
 * that writes nothing learns of it as well.
 */
import {
  BlockIoError,
  type Environment,
  type Timer,
  codeOf,
  isoTime,
  refuse,
  sleep,
  wholeStory,
} from "@dmkit/block-io";
import { FENCE_SIZE, type Token, decodeFence } from "../format/records.ts";
import { type Position, epochKey, logKey } from "../format/keys.ts";
import {
  LOG_HEAD,
  type LogHead,
  type LogSegment,
  MAX_CONTENTS,
  encodeContents,
  encodeLogHead,
} from "../format/log-object.ts";
import { BLOB_HEAD, digestOf } from "@dmkit/image";
import type { Archive } from "./archive.ts";

// Milliseconds between attempts while the store does not take anything; each asks it several times.
const PAUSE = 1000;
// How often it looks for the next epoch: once for so many objects, and so many milliseconds while it writes nothing.
const LOOK_OBJECTS = 32;
const LOOK_PAUSE = 60_000;

// Bytes of an object at the most.
const MOST_OBJECT = LOG_HEAD + BLOB_HEAD + MAX_CONTENTS;

/**
 * Memory of an object, for one after the other: a store does not look at a body any more when it has answered. New memory
 * for each costs more than hashing it (4 KiB writes with an archive).
 */
class ObjectMemory {
  #bytes: Buffer | undefined;

  /** So many bytes, with anything in them; what was taken before is nobody's any more. */
  readonly take = (length: number): Buffer => {
    if (length > MOST_OBJECT) return Buffer.allocUnsafeSlow(length);
    this.#bytes ??= Buffer.allocUnsafeSlow(MOST_OBJECT);
    return this.#bytes.subarray(0, length);
  };

  readonly give = (): void => {};

  /** For who writes nothing for a while. */
  rest(): void {
    this.#bytes = undefined;
  }
}

/** Where a writer begins. */
export interface WriterStart {
  readonly epoch: number;
  readonly nonce: Token;
  readonly token: Token;
  /** Of the last segment in the archive. */
  readonly id: number;
}

/** Writes the log objects of one epoch. */
export class LogWriter {
  readonly #archive: Archive;
  readonly #environment: Environment;
  readonly #start: WriterStart;
  readonly #ending = new AbortController();
  readonly #plain = new ObjectMemory();
  readonly #packed = new ObjectMemory();
  #n = 0;
  #id: number;
  #replaced: BlockIoError | undefined;
  #isLooking = false;
  #nextLook: Timer | undefined;
  /** Why the last attempt failed; undefined once one succeeds. */
  trouble: BlockIoError | undefined;

  constructor(archive: Archive, start: WriterStart, environment: Environment) {
    this.#archive = archive;
    this.#start = start;
    this.#id = start.id;
    this.#environment = environment;
    this.#lookLater();
  }

  /** `ESHUTDOWN`, once it is known that another one writes. */
  get replaced(): BlockIoError | undefined {
    return this.#replaced;
  }

  /** Id of the last segment in the archive. */
  get id(): number {
    return this.#id;
  }

  /**
   * Resolves when the segments are in the store; tries for as long as it takes. One call at a time.
   * @param local of the first of them. Throws `ESHUTDOWN` when another one writes, or it was closed.
   */
  async write(local: number, segments: readonly LogSegment[]): Promise<void> {
    if (this.#replaced !== undefined) throw this.#replaced;
    if (this.#ending.signal.aborted) throw this.#closed(undefined);
    const { token, nonce, epoch } = this.#start;
    const { coder, codec } = this.#archive;
    const position = { epoch, n: this.#n };
    if (this.#n % LOOK_OBJECTS === LOOK_OBJECTS - 1) this.#look();
    const contents = encodeContents(segments, LOG_HEAD + BLOB_HEAD, this.#plain.take);
    const head: LogHead = {
      position,
      id: this.#id + 1,
      local,
      token,
      nonce,
      time: segments.at(-1)?.time ?? 0,
      segments: segments.length,
      digest: digestOf(contents.subarray(LOG_HEAD + BLOB_HEAD)),
    };
    const body = await coder.encodeBehind(LOG_HEAD, contents, codec, this.#packed);
    encodeLogHead(head).copy(body);
    await this.#create(position, body);
    this.#n += 1;
    this.#id += segments.length;
  }

  /** Ends a write that is under way; its segments may still arrive. */
  close(): void {
    this.#ending.abort();
    this.#nextLook?.cancel();
  }

  /** Beside what is written meanwhile. */
  #look(): void {
    if (this.#isLooking) return;
    this.#isLooking = true;
    this.#nextLook?.cancel();
    void this.#lookFor(this.#start.epoch + 1).finally(() => {
      this.#isLooking = false;
      if (this.#replaced === undefined && !this.#ending.signal.aborted) this.#lookLater();
    });
  }

  async #lookFor(next: number): Promise<void> {
    const { store, disk, name } = this.#archive;
    try {
      if ((await store.head(epochKey(disk, next), { signal: this.#ending.signal })) === undefined) return;
      this.#replaced = replacedBy(name, await this.#archive.epoch(next));
    } catch {
      // The store cannot be reached: the next look, or the fence, tells.
    }
  }

  #lookLater(): void {
    this.#nextLook = this.#environment.clock.after(LOOK_PAUSE, () => {
      this.#plain.rest();
      this.#packed.rest();
      this.#look();
    });
  }

  async #create(position: Position, body: Buffer): Promise<void> {
    for (;;) {
      try {
        await this.#createOnce(position, body);
        this.trouble = undefined;
        return;
      } catch (error) {
        if (this.#replaced !== undefined) throw this.#replaced;
        if (this.#ending.signal.aborted) throw this.#closed(error);
        this.trouble =
          error instanceof BlockIoError ? error : new BlockIoError(wholeStory(error), { code: "EIO" });
        await sleep(this.#environment.clock, PAUSE, this.#ending.signal);
        if (this.#ending.signal.aborted) throw this.#closed(error);
      }
    }
  }

  async #createOnce(position: Position, body: Buffer): Promise<void> {
    const { store, disk } = this.#archive;
    const { signal } = this.#ending;
    const key = logKey(disk, position);
    if (await store.create(key, body, { signal })) return;
    // An earlier attempt of ours may have landed after it was given up.
    const there = await store
      .get(key, { most: Math.max(body.length, FENCE_SIZE), signal })
      .catch((error: unknown) => {
        if (codeOf(error) === "EOVERFLOW") return Buffer.alloc(0);
        throw error;
      });
    if (there.equals(body)) return;
    const fence = decodeFence(there);
    const by = fence && (await this.#archive.epoch(fence.epoch));
    this.#replaced = replacedBy(this.#archive.name, by);
    throw this.#replaced;
  }

  #closed(cause: unknown): BlockIoError {
    const details = { code: "ESHUTDOWN", device: this.#archive.name, cause } as const;
    return new BlockIoError("closed before all of it was in the archive", details);
  }
}

/** The error of a writer that another one has replaced. */
export function replacedBy(
  device: string,
  by: { readonly host: string; readonly time: number; readonly number: number } | undefined,
): BlockIoError {
  const who = by === undefined ? "another one" : `${by.host} at ${isoTime(by.time)} (epoch ${by.number})`;
  return refuse(
    device,
    "ESHUTDOWN",
    `this disk was taken over by ${who}`,
    "Go on there. What was written here since then is here only: to give the disk back to this machine, take it over from the archive again.",
    "write",
  );
}
