/** Damage to compressed bytes: what rot, torn writes and enemies do. */
import type { SeededRandom } from "./random.ts";

type Mutation = (bytes: Buffer, random: SeededRandom, other: Buffer) => Buffer;

/** Damages a copy of `bytes` in one to four ways; `other` lends pieces of another stream. */
export function mutate(bytes: Buffer, other: Buffer, random: SeededRandom): Buffer {
  let mutated: Buffer = Buffer.from(bytes);
  for (let left = 1 + (random.below(3) === 0 ? random.below(4) : 0); left > 0; left -= 1) {
    mutated = random.pick(mutations)(mutated, random, other);
  }
  return mutated;
}

function overwrite(bytes: Buffer, at: number, piece: Uint8Array): Buffer {
  bytes.set(piece.subarray(0, bytes.length - at), at);
  return bytes;
}

/** Where to strike: half the time near the start, where headers and the first instructions are. */
function place(bytes: Buffer, random: SeededRandom): number {
  const length = Math.max(1, bytes.length);
  return random.below(random.below(2) === 0 ? Math.min(length, 16) : length);
}

const mutations: readonly Mutation[] = [
  function flipBit(bytes, random) {
    if (bytes.length > 0) bytes[place(bytes, random)]! ^= 1 << random.below(8);
    return bytes;
  },
  function setByte(bytes, random) {
    if (bytes.length > 0)
      bytes[place(bytes, random)] = random.pick([0, 1, 0x0f, 0x10, 0x11, 0x1f, 0x20, 0x7f, 0x80, 0xff]);
    return bytes;
  },
  function randomByte(bytes, random) {
    if (bytes.length > 0) bytes[place(bytes, random)] = random.below(256);
    return bytes;
  },
  function truncate(bytes, random) {
    return bytes.subarray(0, random.below(bytes.length + 1));
  },
  function truncateFront(bytes, random) {
    return bytes.subarray(Math.min(bytes.length, 1 + random.below(8)));
  },
  function append(bytes, random) {
    const tail = Buffer.alloc(1 + random.below(8), random.pick([0, 0x11, 0xff]));
    return Buffer.concat([bytes, tail]);
  },
  // A torn write leaves whole sectors, or their zeroed rest.
  function tear(bytes, random) {
    const at = random.below(bytes.length + 1);
    bytes.subarray(at, at + random.pick([4, 64, 512])).fill(random.pick([0, 0xff]));
    return bytes;
  },
  function insertRun(bytes, random) {
    const at = place(bytes, random);
    const run = Buffer.alloc(1 + random.below(300), random.pick([0, 0xff, random.below(256)]));
    return Buffer.concat([bytes.subarray(0, at), run, bytes.subarray(at)]);
  },
  function remove(bytes, random) {
    const at = place(bytes, random);
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + random.below(16))]);
  },
  function splice(bytes, random, other) {
    return overwrite(bytes, place(bytes, random), other.subarray(random.below(other.length + 1)));
  },
  function repeat(bytes, random) {
    return overwrite(bytes, place(bytes, random), bytes.subarray(random.below(bytes.length + 1)));
  },
  function noise(bytes, random) {
    const at = place(bytes, random);
    random.fill(bytes.subarray(at, at + 1 + random.below(16)));
    return bytes;
  },
  function nothingButNoise(_bytes, random) {
    const made = Buffer.alloc(random.below(200));
    random.fill(made);
    return made;
  },
];
