// Prints open time and RAM by size of the cache device: sparse files, real headers in every slot.
//   node bench/recovery.bench.mjs [GiB…]       (after a build)
import { mkdtempSync, rmSync, truncateSync, writeFileSync, openSync, writeSync, closeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openFile } from "@dmkit/block-io";
import { openWriteboost } from "../dist/index.js";
import { sealSegment, setMetablock } from "../dist/format/segment.js";
import { geometryOf, slotStart } from "../dist/format/geometry.js";
import { encodeHeader, encodeRecord } from "../dist/format/superblock.js";
import { encodeIdentity, NO_UUID, NO_WITNESS } from "../dist/format/identity.js";

const GIB = 2 ** 30;
const sizes = process.argv.slice(2).map(Number);
for (const gib of sizes.length > 0 ? sizes : [1, 10, 100]) {
  const folder = mkdtempSync(join(tmpdir(), "dmkit-writeboost-"));
  try {
    const path = (name) => join(folder, name);
    for (const [name, size] of [
      ["backing", gib * 2 * GIB],
      ["cache", gib * GIB],
    ]) {
      writeFileSync(path(name), "");
      truncateSync(path(name), size);
    }
    const geometry = geometryOf(gib * GIB, 10);
    const fd = openSync(path("cache"), "r+");
    const slot = Buffer.alloc(geometry.slotSize);
    for (let id = 1; id <= geometry.slots; id += 1) {
      for (let at = 0; at < 127; at += 1)
        setMetablock(slot, at, ((id * 127 + at) * 8) % (gib * 2 * 2 ** 21), 0xff);
      // Only those that recovery has to look into get a checksum that is right.
      const doubtful = id <= geometry.tail || id > geometry.slots - geometry.tail;
      if (doubtful) sealSegment("classic", slot, id, 127);
      else {
        slot.writeUInt32LE(id, 0);
        slot.writeUInt8(127, 12);
      }
      writeSync(fd, slot, 0, 4096, slotStart(geometry, id - 1));
    }
    writeSync(fd, encodeHeader(10), 0, 4096, 0);
    writeSync(fd, encodeRecord(0), 0, 4096, 2040 * 512);
    const identity = {
      version: 2,
      dialect: "classic",
      order: 10,
      clean: false,
      cache: "1".repeat(32),
      plog: NO_UUID,
      backingSize: gib * 2 * GIB,
      backingSample: 0,
      plogSegments: 0,
      coveredId: geometry.slots - geometry.tail,
      lastId: 0,
      recordedId: 0,
      slots: geometry.slots,
      plogSize: 0,
      nameAtStart: false,
      witness: NO_WITNESS,
      archive: NO_UUID,
    };
    writeSync(fd, encodeIdentity(identity), 0, 4096, 4096);
    closeSync(fd);
    const backing = await openFile(path("backing"));
    const cache = await openFile(path("cache"));
    const start = performance.now();
    const device = await openWriteboost({ backing, cache, plog: undefined });
    const seconds = ((performance.now() - start) / 1000).toFixed(2);
    const { map, perBlock } = device.info().memory;
    const { dirtyBlocks, lastFlushedId } = device.statusData;
    console.log(
      `${gib} GiB: open ${seconds} s, ${(map / 2 ** 20).toFixed(1)} MiB, ${perBlock.toFixed(1)} bytes a block, ` +
        `${lastFlushedId} segments, ${dirtyBlocks} dirty blocks`,
    );
    await device.close();
    await backing.close();
    await cache.close();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
