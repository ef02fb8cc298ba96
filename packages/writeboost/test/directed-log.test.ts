/** Faults of the log, its recovery and its writeback that random runs do not reach: each by an exact order of things. */
import { type BlockDevice, isUnfinished } from "@dmkit/block-io";
import { SeededRandom, replaced, settle } from "@dmkit/block-io/testing";
import { BlockMap, homeOf } from "../src/core/block-map.ts";
import { planWriteback } from "../src/core/writeback-plan.ts";
import { SLOTS_START } from "../src/format/geometry.ts";
import { IDENTITY_START } from "../src/format/identity.ts";
import { RECORD_START, encodeHeader, encodeRecord } from "../src/format/superblock.ts";
import { ReadPath } from "../src/device/request/read-path.ts";
import { SegmentLog } from "../src/device/log/segment-log.ts";
import { Staging } from "../src/device/request/staging.ts";
import { type Case, Findings, directed } from "./support/cases.ts";
import { type HandDisk, altered, everything } from "./support/hand.ts";
import { BLOCK, Rig, type Wrap, deciding, filled, wrapped } from "./support/rig.ts";

const onCache =
  (changes: (disk: BlockDevice) => Partial<BlockDevice>): Wrap =>
  (disk, name) =>
    name === "cache" ? altered(disk, changes(disk)) : disk;

/** A sector of the cache device that reads as zeroes, whatever it holds. */
const blindTo = (at: number): Wrap =>
  onCache((disk) => ({
    async read(offset, into) {
      await disk.read(offset, into);
      if (offset <= at && at < offset + into.length) into.fill(0, at - offset, at - offset + 512);
    },
  }));

/** The state of a disk, to see whether anything was written. */
const bytesOf = (disk: HandDisk): string => disk.visible.toString("latin1");

let back: HandDisk | undefined;
let home = homeOf;

const cases: readonly Case[] = [
  {
    // Segment X was opened for a write that now waits, and is empty: a barrier leaves the slot as it is. What
    // went past the log is durable then, but so is the old segment in the slot, with the contents of before.
    fault: "forgets-ghosts",
    inject: deciding({ isLogged: ({ map }, block) => map.find(block) >= 0 }),
    async scenario() {
      const found = new Findings();
      const rig = new Rig({ order: 5, slots: 4, options: { pool: 2 } });
      const device = await rig.open();
      await rig.segment(5, 0xaa);
      await rig.segment(8, 0xee);
      await device.dropCaches();
      await rig.segment(6, 0xbb);
      await rig.segment(7, 0xcc);
      rig.cache.hold = ({ op }) => op === "read";
      const waiting = rig.writeSectors(6, 0, 1, 0xdd);
      waiting.catch(() => {});
      await settle();
      found.same("reads of the old copy", rig.cache.held, 1);
      await device.writeZeroes(5 * BLOCK, BLOCK);
      await device.flush();
      await rig.reopen();
      found.same("zeroes that were flushed", await rig.read(5), filled(0));
      return found.all;
    },
  },
  {
    // Two durable copies in one batch while the third, in RAM, is lost: the second must win, although it was
    // read first.
    fault: "sorts-by-address-only",
    inject: deciding({
      plan: (entries) => planWriteback(entries.map((entry, at) => ({ ...entry, id: at }))),
    }),
    async scenario() {
      const found = new Findings();
      const rig = new Rig({ slots: 9, options: { pool: 3 } });
      const device = await rig.open();
      await rig.segment(5, 0xaa);
      await rig.segment(5, 0xbb);
      await rig.write(5, 0xcc);
      rig.cache.hold = ({ op }) => op === "read";
      await device.message(["nr_max_batched_writeback", "2"]);
      await device.message(["allow_writeback", "1"]);
      await settle();
      found.same("segments read at once", rig.cache.held, 2);
      rig.cache.hold = () => false;
      rig.cache.release([1, 0]);
      await settle();
      found.same("written back", device.statusData.lastWritebackId, 2);
      await device.message(["update_record_interval", "1"]);
      await rig.clock.pass(1000);
      await rig.reopen();
      for (let block = 20; block < 40; block += 1) await rig.segment(block, block);
      found.same("the newest durable copy", await rig.read(5), filled(0xbb));
      return found.all;
    },
  },
  {
    // The write that overtook the read has been written back and forgotten by the time the read comes in: the
    // map alone does not know any more that what was read is old.
    fault: "stages-what-was-overtaken",
    inject: () => replaced(Staging.prototype, "take", () => () => true),
    async scenario() {
      const found = new Findings();
      const rig = new Rig({ options: { tunables: { read_cache_threshold: 64 } } });
      const device = await rig.open();
      rig.backing.hold = ({ op }) => op === "read";
      const reading = rig.read(5);
      await settle();
      rig.backing.hold = () => false;
      await rig.segment(5, 0xaa);
      await device.dropCaches();
      for (let block = 20; block < 24; block += 1) await rig.segment(block, block);
      await device.dropCaches();
      rig.backing.release();
      await reading;
      await settle();
      found.same("what was written last", await rig.read(5), filled(0xaa));
      return found.all;
    },
  },
  {
    // As the original did: partial old copies go to the backing device during replay, whether or not newer
    // ones have been there already. When the newer, clean copy is forgotten, the old contents are back.
    fault: "replay-goes-back-in-time",
    inject: wrapped((disk, name) => {
      if (name === "backing") back = disk as HandDisk;
      if (name !== "cache") return disk;
      return altered(disk, {
        async read(offset, into) {
          await disk.read(offset, into);
          // Slot 0 holds the partial old copy of block 5: sector 0.
          if (offset === SLOTS_START && into.readUInt32LE(0) === 1) {
            const data = Buffer.alloc(512);
            await disk.read(SLOTS_START + BLOCK, data);
            await back?.write(5 * BLOCK, data);
          }
        },
      });
    }),
    async scenario() {
      const found = new Findings();
      const rig = new Rig({ slots: 9 });
      const device = await rig.open();
      await rig.writeSectors(5, 0, 1, 0xaa);
      await device.flush();
      await rig.writeSectors(5, 0, 1, 0xbb);
      await device.flush();
      await device.dropCaches();
      await device.message(["update_record_interval", "1"]);
      await rig.clock.pass(1000);
      await rig.reopen();
      found.same("writes to the backing device while opening", rig.backing.asked("write"), 0);
      for (let block = 20; block < 40; block += 1) await rig.segment(block, block);
      found.same("sector 0", (await rig.read(5))[0], 0xbb);
      return found.all;
    },
  },
  {
    fault: "header-before-slots-are-zero",
    inject: wrapped(
      onCache((disk) => ({
        // The magic at once, where the right order is to say that nothing counts until everything else is zero.
        write: (offset, from, options) =>
          disk.write(offset, isUnfinished(from) ? encodeHeader(4) : from, options),
      })),
    ),
    async scenario() {
      const found = new Findings();
      const old = new Rig({ slots: 4 });
      await old.open();
      for (const block of [5, 6, 7]) await old.segment(block, 0xee);
      await old.device.close();
      // As the user is told to: the first 8 KiB zeroed, so that it is formatted anew.
      await old.cache.writeZeroes(0, 2 * BLOCK);
      await old.cache.flush();
      const image = old.cache.stable;
      for (let requests = 0; requests < 24; requests += 1) {
        for (const lands of [everything, (_: unknown, sector: number) => sector % 2 === 0, () => false]) {
          const rig = new Rig({ slots: 4 });
          image.copy(rig.cache.stable);
          image.copy(rig.cache.visible);
          let seen = 0;
          rig.cache.hold = ({ op }) => op !== "read" && (seen += 1) > requests;
          void rig.open().catch(() => {});
          await rig.reopen(lands);
          for (const block of [5, 6, 7]) {
            found.same(`block ${block}, crash after ${requests}`, await rig.read(block), filled(0));
          }
        }
      }
      return found.all.slice(0, 3);
    },
  },
  {
    fault: "formats-unknown-magic",
    inject: wrapped(blindTo(0)),
    async scenario() {
      const found = new Findings();
      const rig = new Rig();
      Buffer.alloc(512, 0x55).copy(rig.cache.visible);
      const before = bytesOf(rig.cache);
      const refused = await rig.open().then(
        () => "opened",
        (error: { code: string }) => error.code,
      );
      found.same("opening", refused, "EFORMAT");
      found.same("the device is as it was", bytesOf(rig.cache) === before, true);
      return found.all;
    },
  },
  {
    fault: "record-cleans-nothing",
    inject: wrapped(blindTo(RECORD_START + 7 * 512)),
    async scenario() {
      const found = new Findings();
      const rig = new Rig({ slots: 9 });
      const device = await rig.open();
      for (const block of [5, 6, 7]) await rig.segment(block, 0xaa);
      await device.dropCaches();
      await device.close();
      await rig.open();
      found.same("last writeback id", rig.device.statusData.lastWritebackId, 3);
      found.same("dirty blocks", rig.device.statusData.dirtyBlocks, 0);
      return found.all;
    },
  },
  ...(
    [
      // Believed as it stands, new segments up to it would count as clean.
      ["record-above-the-log-is-believed", deciding({ lastWriteback: believed })],
      // Corrected in memory only, the next recovery would believe it.
      [
        "record-above-the-log-stays",
        wrapped(
          onCache((disk) => ({
            write: (offset, from, options) =>
              // Nor is there an identity record: its copy of the record is the other defence.
              offset === RECORD_START || offset === IDENTITY_START
                ? Promise.resolve()
                : disk.write(offset, from, options),
          })),
        ),
      ],
    ] as const
  ).map(
    ([fault, inject]): Case => ({
      fault,
      inject,
      async scenario() {
        const found = new Findings();
        const rig = new Rig({ slots: 9 });
        await rig.open();
        await rig.segment(5, 0xaa);
        await rig.crash();
        encodeRecord(6).copy(rig.cache.stable, RECORD_START);
        encodeRecord(6).copy(rig.cache.visible, RECORD_START);
        // Without the identity record, whose copy would contradict.
        rig.cache.stable.fill(0, 4096, 8192);
        rig.cache.visible.fill(0, 4096, 8192);
        await rig.open();
        const { lastFlushedId, lastWritebackId } = rig.device.statusData;
        found.same("the record is above the log", lastWritebackId > lastFlushedId, false);
        for (const block of [6, 7, 8]) await rig.segment(block, 0xbb);
        await rig.reopen();
        for (let block = 20; block < 40; block += 1) await rig.segment(block, block);
        for (const block of [6, 7, 8]) found.same(`block ${block}`, await rig.read(block), filled(0xbb));
        return found.all;
      },
    }),
  ),
  {
    fault: "dirty-bits-double-as-validity",
    inject: () =>
      replaced<(this: BlockMap, slot: number) => void>(
        BlockMap.prototype,
        "clean",
        (original) =>
          function (this: BlockMap, slot) {
            original.call(this, slot);
            const first = slot * this.blocks;
            this.valid.fill(0, first, first + (this.lengths[slot] ?? 0));
          },
      ),
    async scenario() {
      const found = new Findings();
      const rig = new Rig();
      const device = await rig.open();
      await rig.segment(5, 0xaa);
      await device.dropCaches();
      const before = rig.backing.asked("read");
      await rig.read(5);
      found.same("reads of the backing device", rig.backing.asked("read") - before, 0);
      return found.all;
    },
  },
  {
    fault: "reads-leak-to-the-backing-device",
    inject: () =>
      replaced<(this: ReadPath, offset: number, into: Buffer) => Promise<void>>(
        ReadPath.prototype,
        "read",
        (original) =>
          async function (this: ReadPath, offset, into) {
            await original.call(this, offset, into);
            await back?.write(offset, into);
          },
      ),
    async scenario() {
      const found = new Findings();
      const rig = new Rig({ order: 6 });
      await rig.open();
      back = rig.backing;
      await rig.writeSectors(5, 1, 2, 0xaa);
      await rig.device.flush();
      await rig.writeSectors(5, 2, 3, 0xbb);
      found.same("a read of three places", await rig.read(5), [0, 0xaa, 0xbb, 0xbb, 0xbb, 0, 0, 0]);
      found.same("writes to the backing device", rig.backing.asked("write"), 0);
      return found.all;
    },
  },
  {
    fault: "fresh-segment-looks-full",
    inject: () =>
      replaced<(this: SegmentLog) => boolean>(
        SegmentLog.prototype,
        "room",
        (original) =>
          function (this: SegmentLog) {
            const fresh = !this.open;
            if (!original.call(this)) return false;
            if (!fresh) return true;
            // Closed as it is, and the next one taken.
            this.append(250, 0xff, 0xff, -1);
            this.close();
            return original.call(this);
          },
      ),
    async scenario() {
      const found = new Findings();
      const rig = new Rig({ order: 6, slots: 20 });
      const device = await rig.open();
      for (let barrier = 1; barrier <= 5; barrier += 1) await rig.segment(barrier, barrier);
      await device.flush();
      found.same("segments after five barriers", device.statusData.lastFlushedId, 5);
      return found.all;
    },
  },
  {
    fault: "no-throttling-when-nearly-full",
    inject: deciding({ reserve: () => 0 }),
    async scenario() {
      const found = new Findings();
      const rig = new Rig({ slots: 16 });
      const device = await rig.open();
      for (let block = 1; block <= 15; block += 1) await rig.segment(block, block);
      await settle();
      const { lastWritebackId, lastFlushedId } = device.statusData;
      found.same("segments", lastFlushedId, 15);
      found.same("writeback has begun, though nobody asked", lastWritebackId > 0, true);
      return found.all;
    },
  },
  {
    fault: "backing-flush-error-ignored",
    inject: wrapped((disk, name) =>
      name === "backing" ? altered(disk, { flush: () => disk.flush().catch(() => {}) }) : disk,
    ),
    async scenario() {
      const found = new Findings();
      const rig = new Rig({ slots: 9, options: { tunables: { allow_writeback: 1 } } });
      const device = await rig.open();
      rig.backing.refuse = ({ op }) => op === "flush";
      await rig.segment(5, 0xaa);
      await rig.clock.pass(600);
      found.same("flushes of the backing device", rig.backing.asked("flush") > 1, true);
      found.same("last writeback id", device.statusData.lastWritebackId, 0);
      rig.backing.refuse = () => false;
      await rig.clock.pass(2000);
      found.same("last writeback id, after all", device.statusData.lastWritebackId, 1);
      return found.all;
    },
  },
  {
    // The driver hashed sector numbers by their remainder; they are multiples of 8.
    fault: "hash-on-unshifted-sector",
    inject: () => {
      home = (block, size) => (block * 8) % (size - 1);
      return () => (home = homeOf);
    },
    async scenario() {
      const found = new Findings();
      const count = 3 * 127 * 256;
      const size = Math.ceil((count * 4) / 3) + 1;
      const random = new SeededRandom(3);
      for (const [name, key] of [
        ["neighbours", (at: number) => at],
        ["every eighth", (at: number) => at * 8],
        ["anything", () => random.below(2 ** 20)],
      ] as const) {
        const homes = new Set<number>();
        for (let at = 0; at < count; at += 1) homes.add(home(key(at), size));
        // By chance alone it would be 70 %: 4/3 places a block.
        found.same(`places used by ${name}`, homes.size > count * 0.6 ? "most" : homes.size, "most");
      }
      return found.all;
    },
  },
];

/** What a driver without any bound would take for the last clean segment. */
function believed({ first }: { readonly first: number }, record: number): number {
  return Math.max(record, first - 1);
}

directed(cases);
