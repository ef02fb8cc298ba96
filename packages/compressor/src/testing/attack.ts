/**
 * The hostile-input test, the same for every backend: damaged streams go in, and all that may come out is a
 * length within the buffer or the backend's own `EFORMAT`. Case *n* of a seed depends on nothing but the seed
 * and *n*, so that any case can be run again alone.
 */
import assert from "node:assert";
import type { Backend } from "../backend.ts";
import { CompressorError } from "../errors.ts";
import { makeSample, sampleKinds } from "./corpus.ts";
import { mutate } from "./mutate.ts";
import { SeededRandom } from "./random.ts";

export interface AttackOptions {
  readonly seed: number;
  /** Number of damaged inputs. */
  readonly count: number;
  /** Number of the first case; default 0. */
  readonly from?: number;
  /** Called now and then with the number of the case that is next. */
  readonly progress?: (next: number) => void;
}

export interface AttackResult {
  /** Inputs that were refused with `EFORMAT`. */
  readonly refused: number;
  /** Inputs that were accepted: harmless damage, or damage that the format has no means to notice. */
  readonly accepted: number;
}

/** Bytes before and after the output buffer which nobody may touch. */
const GUARD = 64;
const GUARD_BYTE = 0xa5;
const PROGRESS_STEP = 5000;
/** Mostly short inputs, where a case is quick; some as long as the longest extent. */
const lengths = [0, 1, 3, 20, 64, 200, 300, 512, 700, 1000, 2000, 3000, 4096, 4096, 20000, 131072] as const;

interface Stream {
  readonly compressed: Buffer;
  readonly length: number;
}

/**
 * Attacks a loaded backend's decompressor.
 *
 * @throws AssertionError at the first violation, naming seed and case.
 */
export function attackBackend(backend: Backend, options: AttackOptions): AttackResult {
  const { seed, count, from = 0, progress } = options;
  const streams = makeStreams(backend, seed);
  let refused = 0;
  for (let n = from; n < from + count; n += 1) {
    if (n % PROGRESS_STEP === 0) progress?.(n);
    if (!attackOnce(backend, streams, seed, n)) refused += 1;
  }
  progress?.(from + count);
  return { refused, accepted: count - refused };
}

/** Valid streams to start from: every kind of content at every length. */
function makeStreams(backend: Backend, seed: number): Stream[] {
  const context = backend.createContext({ level: backend.levels?.default ?? 0 });
  const streams = lengths.flatMap((length, at) =>
    sampleKinds.map((kind, which) => {
      const { bytes } = makeSample(kind, length, seed + at * 16 + which);
      const output = Buffer.alloc(backend.bound(length));
      const size = backend.compress(bytes, output, context);
      assert(size >= 0, `${backend.name}: ${length} bytes of ${kind} do not fit their bound`);
      return { compressed: output.subarray(0, size), length };
    }),
  );
  backend.destroyContext(context);
  return streams;
}

/** Runs one case; whether the input was accepted. */
function attackOnce(backend: Backend, streams: readonly Stream[], seed: number, n: number): boolean {
  const random = new SeededRandom(Math.imul(seed, 0x01000193) ^ n);
  const stream = pickStream(streams, random);
  const input = mutate(stream.compressed, pickStream(streams, random).compressed, random);
  const before = Buffer.from(input);
  const capacity = pickCapacity(stream.length, random);
  const arena = Buffer.alloc(capacity + 2 * GUARD, GUARD_BYTE);
  const where = `${backend.name}, seed ${seed}, case ${n}`;

  let accepted = false;
  try {
    const length = backend.decompress(input, arena.subarray(GUARD, GUARD + capacity));
    assert(
      Number.isInteger(length) && length >= 0 && length <= capacity,
      `${where}: returned ${length} of ${capacity}`,
    );
    accepted = true;
  } catch (error) {
    if (!(error instanceof CompressorError) || error.code !== "EFORMAT") {
      throw new assert.AssertionError({
        message: `${where}: threw ${String(error)}`,
        actual: error,
        expected: "EFORMAT",
      });
    }
  }
  assert(isGuard(arena, 0) && isGuard(arena, GUARD + capacity), `${where}: wrote outside the output buffer`);
  assert(before.equals(input), `${where}: changed its input`);
  return accepted;
}

function pickStream(streams: readonly Stream[], random: SeededRandom): Stream {
  // The two longest kinds take as much time as hundreds of short ones: pick them seldom.
  const long = random.below(200) === 0;
  return streams[random.below(long ? streams.length : streams.length - 2 * sampleKinds.length)] as Stream;
}

/** Usually what the caller expects, sometimes less or more, sometimes nothing. */
function pickCapacity(length: number, random: SeededRandom): number {
  switch (random.below(8)) {
    case 0:
      return random.below(length + 1);
    case 1:
      return length + random.below(64);
    case 2:
      return random.pick([0, 1, 4096]);
    default:
      return length;
  }
}

const guard = Buffer.alloc(GUARD, GUARD_BYTE);

function isGuard(arena: Buffer, at: number): boolean {
  return guard.compare(arena, at, at + GUARD) === 0;
}
