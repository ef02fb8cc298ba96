/** The single checks of the conformance suite, grouped by what they are about. */
import assert from "node:assert/strict";
import type { BlockDevice, Extent, ExtentKind } from "../device.ts";
import { BlockIoError, type ErrorCode } from "../errors.ts";
import type { Subject } from "./conformance.ts";
import { SeededRandom } from "./random.ts";

export type Checks = Readonly<Record<string, (subject: Subject, seed: number) => Promise<void>>>;

// Requests stay in the first part of large devices, and at their end.
const SPAN = 256 * 1024;

const writable = (device: BlockDevice): boolean => !device.limits.capabilities.readOnly;

async function rejects(promise: Promise<unknown>, ...codes: ErrorCode[]): Promise<void> {
  await assert.rejects(promise, (error: unknown) => {
    assert.ok(error instanceof BlockIoError, `not a BlockIoError: ${String(error)}`);
    assert.ok(codes.includes(error.code), `${error.code}, not ${codes.join(" or ")}: ${error.message}`);
    return true;
  });
}

async function readBack(device: BlockDevice, offset: number, length: number): Promise<Buffer> {
  const into = Buffer.alloc(length, 0xee);
  await device.read(offset, into);
  return into;
}

function same(actual: Buffer, expected: Buffer, what: string): void {
  if (actual.equals(expected)) return;
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  assert.fail(`${what}: first difference at byte ${at}: ${actual[at]} instead of ${expected[at]}`);
}

async function collect(device: BlockDevice, offset: number, length: number): Promise<Extent[]> {
  const extents: Extent[] = [];
  for await (const extent of device.extents(offset, length)) extents.push(extent);
  return extents;
}

async function checkExtents(device: BlockDevice, offset: number, length: number): Promise<void> {
  let at = offset;
  for (const extent of await collect(device, offset, length)) {
    assert.equal(extent.offset, at, "extents are contiguous");
    assert.ok(extent.length > 0 && extent.offset + extent.length <= offset + length, "extents are clipped");
    if (extent.kind !== "data") {
      const zero = Buffer.alloc(Math.min(extent.length, SPAN));
      same(await readBack(device, extent.offset, zero.length), zero, `a ${extent.kind} reads as zeroes`);
    }
    at += extent.length;
  }
  assert.equal(at, offset + length, "extents cover the range");
}

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

/** What must be refused. */
export const refusals: Checks = {
  "refuses what lies outside or is not aligned, without overflow": async ({ device }) => {
    const block = device.limits.logicalBlockSize;
    const one = Buffer.alloc(block);
    await rejects(device.read(device.size, one), "EINVAL");
    await rejects(device.read(Number.MAX_SAFE_INTEGER - block + 1, one), "EINVAL");
    for (const offset of [-block, 1, Number.NaN, 0.5, 2 ** 60])
      await rejects(device.read(offset, one), "EINVAL");
    await rejects(device.read(0, Buffer.alloc(block + 1)), "EINVAL");
    await rejects(collect(device, 0, device.size + block), "EINVAL");
    if (!writable(device)) return;
    await rejects(device.write(device.size, one), "ENOSPC");
    await rejects(device.write(device.size - block, Buffer.alloc(2 * block)), "ENOSPC");
    await rejects(device.write(1, one), "EINVAL");
    await rejects(device.writeZeroes(device.size, block), "ENOSPC");
    await rejects(device.writeZeroes(0, block - 1), "EINVAL");
    await rejects(device.discard(device.size, block), "EINVAL");
    await rejects(device.discard(0, 1), "EINVAL");
  },

  "refuses to change a read-only device": async ({ device }) => {
    if (writable(device)) return;
    const one = Buffer.alloc(device.limits.logicalBlockSize);
    await rejects(device.write(0, one), "EROFS");
    await rejects(device.writeZeroes(0, one.length), "EROFS");
    await rejects(device.discard(0, one.length), "EROFS");
    await device.flush();
  },
};

/** Many requests at once. */
export const concurrency: Checks = {
  "keeps requests in flight apart": async ({ device }, seed) => {
    if (!writable(device)) return;
    const random = new SeededRandom(seed);
    const block = device.limits.logicalBlockSize;
    const part = SPAN / 32;
    const expected = await readBack(device, 0, SPAN);
    for (let round = 0; round < 8; round += 1) {
      await Promise.all(
        Array.from({ length: 32 }, async (_, index) => {
          const within = random.below(part / block) * block;
          const data = random.fill(
            Buffer.allocUnsafe(Math.min(part - within, (1 + random.below(8)) * block)),
          );
          data.copy(expected, index * part + within);
          await device.write(index * part + within, data);
          same(await readBack(device, index * part + within, data.length), data, "right after its write");
        }),
      );
    }
    same(await readBack(device, 0, SPAN), expected, "after all rounds");
  },

  "settles overlapping writes on one result, sector by sector": async ({ device }, seed) => {
    if (!writable(device)) return;
    const random = new SeededRandom(seed);
    const block = device.limits.logicalBlockSize;
    for (let round = 1; round <= 8; round += 1) {
      const writes = Array.from({ length: 12 }, (_, index) => {
        const first = random.below(24);
        return { first, data: Buffer.alloc((1 + random.below(16)) * block, round * 16 + index) };
      });
      const base = Buffer.alloc(40 * block, round);
      await device.write(0, base);
      await Promise.all(writes.map(({ first, data }) => device.write(first * block, data)));
      const result = await readBack(device, 0, 40 * block);
      for (let at = 0; at < 40; at += 1) {
        const sector = result.subarray(at * block, (at + 1) * block);
        const covering = writes.filter(({ first, data }) => at >= first && at < first + data.length / block);
        const legal = covering.length === 0 ? [round] : covering.map(({ data }) => data[0] as number);
        assert.ok(
          legal.includes(sector[0] as number),
          `block ${at} holds ${sector[0]}, legal: ${legal.join(", ")}`,
        );
        assert.ok(sector.equals(Buffer.alloc(block, sector[0])), `block ${at} is a mixture`);
      }
      same(await readBack(device, 0, 40 * block), result, "a second look");
    }
  },
};

/** Suspend, resume, close, reopen. */
export const lifecycle: Checks = {
  "holds requests while suspended and goes on after resume": async ({ device }) => {
    const block = device.limits.logicalBlockSize;
    await device.suspend();
    await device.suspend();
    let settled = 0;
    const requests = [device.read(0, Buffer.alloc(block))];
    if (writable(device)) requests.push(device.write(0, Buffer.alloc(block, 9)), device.flush());
    for (const request of requests) void request.then(() => (settled += 1));
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(settled, 0, "nothing goes on while suspended");
    await device.resume();
    await Promise.all(requests);
    await device.resume();
    if (writable(device))
      same(await readBack(device, 0, block), Buffer.alloc(block, 9), "written after resume");
  },

  "closes more than once, and refuses everything afterwards": async ({ device }) => {
    const one = Buffer.alloc(device.limits.logicalBlockSize);
    const last = writable(device) ? device.write(0, one) : device.read(0, one);
    await Promise.all([device.close(), device.close(), last]);
    await device.close();
    await rejects(device.read(0, one), "ESHUTDOWN");
    await rejects(collect(device, 0, one.length), "ESHUTDOWN");
    await rejects(device.suspend(), "ESHUTDOWN");
    if (!writable(device)) return;
    await rejects(device.write(0, one), "ESHUTDOWN");
    await rejects(device.flush(), "ESHUTDOWN");
    await rejects(device.discard(0, one.length), "ESHUTDOWN");
  },

  "refuses held requests when closed while suspended": async ({ device }) => {
    await device.suspend();
    const held = device.read(0, Buffer.alloc(device.limits.logicalBlockSize));
    const refused = rejects(held, "ESHUTDOWN");
    await device.close();
    await refused;
  },

  "has everything again after close and reopen": async ({ device, reopen }, seed) => {
    if (reopen === undefined || !writable(device)) return;
    const random = new SeededRandom(seed);
    const data = random.fill(Buffer.allocUnsafe(SPAN));
    await device.write(0, data);
    await device.writeZeroes(SPAN / 2, SPAN / 4);
    data.fill(0, SPAN / 2, (SPAN * 3) / 4);
    await device.close();
    const again = await reopen();
    try {
      assert.equal(again.size, device.size);
      same(await readBack(again, 0, SPAN), data, "after reopen");
    } finally {
      await again.close();
    }
  },
};
