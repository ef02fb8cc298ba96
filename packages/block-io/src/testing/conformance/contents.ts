/** Checks of what is written and read, and of zeroes. */
import assert from "node:assert/strict";
import type { ExtentKind } from "../../contract/device.ts";
import { BlockIoError } from "../../contract/errors.ts";
import { SeededRandom } from "../random.ts";
import { type Checks, SPAN, checkExtents, collect, readBack, rejects, same, writable } from "./subject.ts";

/** What is written and read. */
export const contents: Checks = {
  "describes itself soundly": async ({ device }) => {
    const { limits } = device;
    assert.ok(Number.isSafeInteger(device.size) && device.size >= SPAN, "at least 256 KiB for the suite");
    assert.ok(limits.logicalBlockSize === 512 || limits.logicalBlockSize === 4096);
    assert.equal(device.size % limits.logicalBlockSize, 0);
    assert.ok(Number.isInteger(Math.log2(limits.physicalBlockSize)));
    assert.ok(limits.physicalBlockSize >= limits.logicalBlockSize);
    assert.equal(limits.optimalTransfer % limits.physicalBlockSize, 0);
    assert.equal(limits.discardGranularity % limits.logicalBlockSize, 0);
    assert.ok(device.name.length > 0);
  },

  "reads what was written, at the start, across blocks and at the very end": async ({ device }, seed) => {
    if (!writable(device)) return;
    const random = new SeededRandom(seed);
    const block = device.limits.logicalBlockSize;
    for (const [offset, length] of [
      [0, block],
      [block, 7 * block],
      [15 * block, 65_536],
      [device.size - block, block],
      [device.size - 65_536, 65_536],
    ] as const) {
      const data = random.fill(Buffer.allocUnsafe(length));
      await device.write(offset, data);
      same(await readBack(device, offset, length), data, `${length} bytes at ${offset}`);
    }
  },

  "keeps no reference to the caller's buffers": async ({ device }) => {
    if (!writable(device)) return;
    const block = device.limits.logicalBlockSize;
    const data = Buffer.alloc(8 * block, 0x5a);
    await device.write(0, data);
    data.fill(0xa5);
    const first = await readBack(device, 0, 8 * block);
    same(first, Buffer.alloc(8 * block, 0x5a), "the bytes at the time of the write");
    await device.write(0, data);
    same(first, Buffer.alloc(8 * block, 0x5a), "a buffer read into earlier");
  },

  "accepts requests of no length": async ({ device }) => {
    await device.read(0, Buffer.alloc(0));
    await device.read(device.size, Buffer.alloc(0));
    if (!writable(device)) return;
    await device.write(device.size, Buffer.alloc(0));
    await device.discard(0, 0);
    await device.writeZeroes(0, 0);
  },

  "flushes, and writes with FUA": async ({ device }) => {
    if (!writable(device)) return;
    const data = Buffer.alloc(device.limits.logicalBlockSize, 7);
    await device.write(0, data, { fua: true });
    await Promise.all([device.flush(), device.flush(), device.flush()]);
    same(await readBack(device, 0, data.length), data, "written with FUA");
  },

  "answers like a model under random requests": async ({ device }, seed) => {
    if (!writable(device)) return;
    const random = new SeededRandom(seed);
    const block = device.limits.logicalBlockSize;
    const blocks = SPAN / block;
    const model = await readBack(device, 0, SPAN);
    for (let step = 0; step < 300; step += 1) {
      const first = random.below(blocks);
      const count = 1 + random.below(Math.min(24, blocks - first));
      const offset = first * block;
      const length = count * block;
      switch (random.below(6)) {
        case 0:
        case 1: {
          const data = random.fill(Buffer.allocUnsafe(length));
          await device.write(offset, data, { fua: random.chance(0.1) });
          data.copy(model, offset);
          break;
        }
        case 2:
          await device.writeZeroes(offset, length, { mayUnmap: random.chance(0.5), fua: random.chance(0.1) });
          model.fill(0, offset, offset + length);
          break;
        case 3:
          if (random.chance(0.2)) await device.flush();
          break;
        case 4:
          await device.discard(offset, length);
          // Contents after a discard are the device's choice: look, then hold it to that.
          (await readBack(device, offset, length)).copy(model, offset);
          break;
        default:
          same(
            await readBack(device, offset, length),
            model.subarray(offset, offset + length),
            `step ${step}`,
          );
      }
    }
    same(await readBack(device, 0, SPAN), model, "at the end");
  },

  "reports extents that cover the range, with holes that read as zeroes": async ({ device }, seed) => {
    const random = new SeededRandom(seed);
    const block = device.limits.logicalBlockSize;
    if (writable(device)) {
      await device.writeZeroes(0, SPAN, { mayUnmap: true });
      await device.write(64 * 1024, random.fill(Buffer.allocUnsafe(64 * 1024)));
    }
    await checkExtents(device, 0, device.size);
    await checkExtents(device, block, SPAN - 2 * block);
    for (let round = 0; round < 10; round += 1) {
      const first = random.below(SPAN / block - 1);
      await checkExtents(device, first * block, (1 + random.below(SPAN / block - first)) * block);
    }
    assert.deepEqual(await collect(device, 0, 0), []);
    if (!writable(device)) return;
    const kinds = new Set<ExtentKind>();
    for (const extent of await collect(device, 64 * 1024, 64 * 1024)) kinds.add(extent.kind);
    assert.deepEqual([...kinds], ["data"], "random bytes are data");
  },
};

/** Zeroes and discards. */
export const zeroing: Checks = {
  "writes zeroes there and nowhere else": async ({ device }) => {
    if (!writable(device)) return;
    const block = device.limits.logicalBlockSize;
    for (const mayUnmap of [false, true]) {
      const expected = Buffer.alloc(64 * block, 0x77);
      await device.write(0, expected);
      await device.writeZeroes(3 * block, 50 * block, { mayUnmap });
      expected.fill(0, 3 * block, 53 * block);
      same(await readBack(device, 0, expected.length), expected, `mayUnmap ${mayUnmap}`);
    }
  },

  "zeroes fast or refuses with contents unchanged": async ({ device }) => {
    if (!writable(device)) return;
    const block = device.limits.logicalBlockSize;
    const expected = Buffer.alloc(64 * block, 0x33);
    await device.write(0, expected);
    const attempt = device.writeZeroes(8 * block, 8 * block, { fast: true });
    if (device.limits.capabilities.fastZero) {
      const zeroed = await attempt.then(
        () => true,
        (error: unknown) => {
          assert.equal((error as BlockIoError).code, "ENOTSUP");
          return false;
        },
      );
      if (zeroed) expected.fill(0, 8 * block, 16 * block);
    } else {
      await rejects(attempt, "ENOTSUP");
    }
    same(await readBack(device, 0, expected.length), expected, "after zeroing fast");
  },

  "discards to zeroes or leaves as it was, the same for ever, and touches nothing else": async ({
    device,
  }) => {
    if (!writable(device)) return;
    const { discardGranularity: granule, capabilities, logicalBlockSize: block } = device.limits;
    const before = Buffer.alloc(SPAN, 0x44);
    await device.write(0, before);
    const start = Math.ceil(SPAN / 4 / granule) * granule;
    const end = Math.floor((SPAN * 3) / 4 / granule) * granule;
    if (end <= start) return;
    await device.discard(start, end - start);
    const after = await readBack(device, 0, SPAN);
    for (let at = 0; at < SPAN; at += block) {
      const piece = after.subarray(at, at + block);
      const zero = piece.equals(Buffer.alloc(block));
      const inside = at >= start && at < end;
      if (inside && capabilities.discardZeroes) assert.ok(zero, `discarded block at ${at} is not zero`);
      else assert.ok(piece.equals(before.subarray(at, at + block)) || (inside && zero), `block at ${at}`);
    }
    same(await readBack(device, 0, SPAN), after, "a second look");
  },
};
