/** Checks of what is refused, of requests at once, and of a device's life. */
import assert from "node:assert/strict";
import { SeededRandom } from "../random.ts";
import { type Checks, SPAN, collect, readBack, rejects, same, writable } from "./subject.ts";

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
