// Prints what the cache itself costs, by associativity and size, in nanoseconds:
//
//   lookup   finding a block's frame and making it the most recently used one
//   miss     looking for a block that is not there, evicting the least recently used one, taking its frame
//   read     a read hit of 4 KiB through the device
//   write    a write hit of 4 KiB in write-back mode through the device
//
//   node bench/associativity.bench.mjs       (after a build)
//
// In full tables, but over the same few hundred blocks and frames whatever the size, so that the figures show the
// work and not how much of the tables the processor's caches hold. `far` is `lookup` over blocks spread over all of
// a table: it has both. The devices below do nothing. The least of nine rounds counts, since the machine may be
// doing other things; the cells of a round are taken in turn.
import { GuardedDevice, MemoryDevice, done, realEnvironment } from "@dmkit/block-io";
import { FrameTable, NONE, states } from "../dist/core/frame-table.js";
import { assocCache } from "../dist/index.js";
import { openOn } from "../dist/testing/sim-targets.js";

const HOT = 256;
const FAR = 65_536;
const CALLS = 50_000;
const ROUNDS = 9;

/** Of any size; reads and writes nothing once `idle`. */
class NoDevice extends GuardedDevice {
  constructor(name, size) {
    super(name, size, new MemoryDevice(4096).limits);
  }
  doRead(_offset, into) {
    if (!this.idle) into.fill(0);
    return done;
  }
  doWrite() {
    return done;
  }
  doFlush() {
    return done;
  }
}

/** Binds blocks until the frames are full, as far as sets allow it; gives the blocks. */
function fill(table, blocks) {
  const bound = [];
  for (let at = 0; bound.length < table.geometry.frames * 0.9 && at < blocks; at += 1) {
    const block = (at * 7919) % blocks;
    const frame = table.freeFrame(block);
    if (frame === NONE) continue;
    table.bind(frame, block);
    table.setState(frame, states.clean);
    bound.push(block);
  }
  return bound;
}

/** Some of them, from all over. */
function some(bound, count) {
  const step = Math.max(1, Math.floor(bound.length / count));
  return Array.from({ length: count }, (_, index) => bound[(index * step) % bound.length]);
}

/** More blocks of a few sets than there are frames in these: asked for in turn, none is ever there. */
function contenders(table, blocks) {
  const sets = Math.max(1, HOT / table.geometry.ways);
  const found = [];
  for (let block = 0; block < blocks; block += 1) if (table.sets.of(block) < sets) found.push(block);
  return found;
}

function measure(work) {
  const start = process.hrtime.bigint();
  work();
  return Number(process.hrtime.bigint() - start) / CALLS;
}

async function cell(ways, bits) {
  const frames = 2 ** bits;
  const geometry = { frames, blockSectors: 8, ways };
  const blocks = frames * 8;
  const forLookups = new FrameTable(geometry);
  const forMisses = new FrameTable(geometry);
  const everywhere = some(fill(forLookups, blocks), FAR);
  const present = everywhere.slice(0, HOT);
  fill(forMisses, blocks);
  const missing = contenders(forMisses, blocks);
  const source = new NoDevice("source", blocks * 4096);
  const cache = new NoDevice("cache", frames * 4096 + 64 * 2 ** 20);
  const values = {
    block_size: 8,
    cache_size: frames,
    associativity: ways,
    policy: "write-back",
    sequential_cutoff: 0,
    high_watermark: 100,
    age_limit: 0,
  };
  const device = await openOn(source, cache, values, realEnvironment);
  source.idle = true;
  cache.idle = true;
  const hot = some(fill(device.state.frames, blocks), HOT);
  const buffer = Buffer.alloc(4096);
  let next = 0;
  return {
    lookup: () =>
      measure(() => {
        for (let call = 0; call < CALLS; call += 1) {
          forLookups.use(forLookups.find(present[call % HOT]));
        }
      }),
    far: () =>
      measure(() => {
        for (let call = 0; call < CALLS; call += 1) {
          forLookups.use(forLookups.find(everywhere[(call * 7) % FAR]));
        }
      }),
    miss: () =>
      measure(() => {
        for (let call = 0; call < CALLS; call += 1) {
          next = (next + 1) % missing.length;
          const block = missing[next];
          if (forMisses.find(block) !== NONE) continue;
          let frame = forMisses.freeFrame(block);
          if (frame === NONE) {
            frame = forMisses.oldestEvictable(block);
            forMisses.release(frame);
          }
          forMisses.bind(frame, block);
          forMisses.setState(frame, states.clean);
        }
      }),
    read: () =>
      measure(() => {
        for (let call = 0; call < CALLS; call += 1) void device.read(hot[call % HOT] * 4096, buffer);
      }),
    write: () =>
      measure(() => {
        for (let call = 0; call < CALLS; call += 1) void device.write(hot[call % HOT] * 4096, buffer);
      }),
  };
}

const figures = ["lookup", "miss", "read", "write", "far"];
console.log(`Node ${process.version}, target ${assocCache.name}; ns`);
console.log(["ways", "frames", ...figures].map((word) => word.padStart(9)).join(""));
const cells = [];
for (const ways of [1, 16, 1024]) {
  for (const bits of [12, 16, 20]) cells.push({ ways, bits, works: await cell(ways, bits), least: {} });
}
for (let round = 0; round < ROUNDS; round += 1) {
  for (const { works, least } of cells) {
    for (const figure of figures) least[figure] = Math.min(least[figure] ?? Infinity, works[figure]());
  }
}
for (const { ways, bits, least } of cells) {
  const words = [ways, `2^${bits}`, ...figures.map((figure) => least[figure].toFixed(0))];
  console.log(words.map((word) => String(word).padStart(9)).join(""));
}
