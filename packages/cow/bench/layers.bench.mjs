// Prints what a read through a stack costs, by the number of empty layers above the base, in nanoseconds:
//
//   4k       random reads of 4 KiB whose data is in the base
//   128k     the same of 128 KiB
//   layer    random reads of 4 KiB whose data is in the lowest layer, under the empty ones
//
//   node bench/layers.bench.mjs [--quick]       (after a build)
//
// All devices are in RAM. The least of nine rounds counts, since the machine may be doing other things; the cells of
// a round are taken in turn. In brackets: the cost as a multiple of that of one layer.
import { MemoryDevice } from "@dmkit/block-io";
import { bitmapDeviceSize, openStack } from "../dist/index.js";

const QUICK = process.argv.includes("--quick");
const LAYERS = QUICK ? [1, 2, 10] : [1, 2, 10, 64, 250];
const SIZE = 64 * 2 ** 20;
const CALLS = QUICK ? 1000 : 20_000;
const ROUNDS = QUICK ? 3 : 9;
const loads = [
  ["4k", 4096, 0],
  ["128k", 128 * 1024, 0],
  ["layer", 4096, SIZE / 2],
];

/** Data in the upper half of the lowest layer; all other layers are empty. */
async function stackOf(count) {
  const layers = [];
  const stack = { base: new MemoryDevice(SIZE), baseOffset: 0, sectors: SIZE / 512, layers };
  const half = Buffer.alloc(SIZE / 2, 7);
  await stack.base.write(0, half);
  for (let number = 1; number <= count; number += 1) {
    layers.push({
      bitmap: new MemoryDevice(bitmapDeviceSize(stack.sectors)),
      data: new MemoryDevice(SIZE),
      offset: 0,
    });
    const device = await openStack(stack);
    if (number === 1) await device.write(SIZE / 2, half);
    if (number === count) {
      // All bits are in memory, as they are when a stack has been in use for a while.
      await device.message(["count"]);
      return device;
    }
    await device.close();
  }
}

function time(device, length, from, calls) {
  const into = Buffer.alloc(length);
  const places = SIZE / 2 / length;
  const running = [];
  const start = process.hrtime.bigint();
  for (let call = 0; call < calls; call += 1) {
    running.push(device.read(from + Math.floor(Math.random() * places) * length, into));
  }
  const elapsed = Number(process.hrtime.bigint() - start);
  return Promise.all(running).then(() => elapsed / calls);
}

const devices = [];
for (const count of LAYERS) devices.push(await stackOf(count));
const least = loads.map(() => LAYERS.map(() => Infinity));
for (let round = 0; round < ROUNDS; round += 1) {
  for (const [row, [, length, from]] of loads.entries()) {
    for (const [column, device] of devices.entries()) {
      const cost = await time(device, length, from, length > 4096 ? CALLS / 10 : CALLS);
      least[row][column] = Math.min(least[row][column], cost);
    }
  }
}
console.log(["layers".padEnd(8), ...LAYERS.map((count) => String(count).padStart(16))].join(""));
for (const [row, [name]] of loads.entries()) {
  const cells = least[row].map((cost) =>
    `${Math.round(cost)} (${(cost / least[row][0]).toFixed(2)})`.padStart(16),
  );
  console.log([name.padEnd(8), ...cells].join(""));
}
for (const device of devices) await device.close();
