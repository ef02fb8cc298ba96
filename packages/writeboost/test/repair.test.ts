/**
 * Every kind of problem: found, repaired where that needs no guess, found no more; never a flushed byte lost, and
 * a crash at any write of the repair leaves what a second repair completes.
 */
import { type BlockDevice, type ImageProblem } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { beforeAll, describe, expect, it } from "vitest";
import { openWriteboost, repair, writeboostImages as images } from "../src/index.ts";
import { sealSegment } from "../src/format/segment.ts";
import type { Lands } from "./support/hand.ts";
import { everything, nothing } from "./support/hand.ts";
import {
  type Made,
  IDENTITY,
  RECORD,
  SLOT,
  contentsOf,
  disksOf,
  flip,
  make,
  slotAt,
  work,
} from "./support/offline.ts";

type Disks = ReturnType<typeof disksOf>;
type Damage = NonNullable<Parameters<typeof disksOf>[1]>;

async function kindsOf(disks: Disks): Promise<ImageProblem[]> {
  const problems: ImageProblem[] = [];
  for await (const problem of images.check(roles(disks), work)) problems.push(problem);
  return problems;
}

function roles({ cache, backing, plog }: Disks): Record<string, BlockDevice> {
  return plog === undefined ? { cache, backing } : { cache, backing, plog };
}

/** Writes `id` into the header of a whole segment that stands in the slot of segment `from`. */
function transplant(cache: Buffer, from: number, id: number): void {
  const bytes = Buffer.from(cache.subarray(slotAt(from), slotAt(from) + SLOT));
  sealSegment("classic", bytes, id, bytes.readUInt8(12));
  bytes.copy(cache, slotAt(id));
}

type Which = "plain" | "late" | "plog" | "latePlog";

const made: Record<Which, Made> = {} as Record<Which, Made>;
beforeAll(async () => {
  // The log of the plain one is 10 … 21, written back up to 14, known to be flushed up to 18; that of the other
  // is 7 … 18, written back up to 13, known to be flushed up to 16, and goes on in the plog. The late ones have
  // been written back later.
  made.plain = await make({ plog: false });
  made.plog = await make();
  made.late = await make({ plog: false, back: 55 });
  made.latePlog = await make({ back: 55 });
});

interface Case {
  readonly name: string;
  readonly on: Which;
  readonly damage: Damage;
  /** What is found before, with those that are repaired first. */
  readonly kinds: readonly string[];
  readonly left: readonly string[];
  /** Whether everything that was flushed is there again; if not, the newest segment was torn. */
  readonly whole?: boolean;
}

const cases: readonly Case[] = [
  { name: "nothing", on: "plain", damage: () => {}, kinds: [], left: [] },
  {
    name: "a plog that goes on where the log ends",
    on: "plog",
    damage: () => {},
    kinds: ["plog-ahead"],
    left: [],
  },
  {
    name: "a flipped bit in the magic",
    on: "plain",
    damage: ({ cache }) => flip(cache, 2),
    kinds: ["superblock"],
    left: [],
  },
  {
    name: "another order in sector 0",
    on: "plain",
    damage: ({ cache }) => cache.fill(6, 4, 5),
    kinds: ["superblock"],
    left: [],
  },
  {
    name: "a damaged header, and a plog to apply",
    on: "plog",
    damage: ({ cache }) => flip(cache, 0),
    kinds: ["superblock", "plog-ahead"],
    left: [],
  },
  {
    name: "the newest segment torn",
    on: "plain",
    damage: ({ cache }) => flip(cache, slotAt(21) + 4096),
    kinds: ["torn"],
    left: [],
    whole: false,
  },
  {
    name: "whole segments of the future",
    on: "plain",
    damage: ({ cache }) => {
      // 22 is lost; 23 is not. Before, 10 and 11 were there, which is what a crash does.
      cache.fill(0, slotAt(22), slotAt(22) + 512);
      transplant(cache, 20, 23);
    },
    kinds: ["stale"],
    left: [],
  },
  {
    name: "rot in a clean segment",
    on: "late",
    damage: ({ cache }) => flip(cache, slotAt(17) + 5000),
    kinds: ["rot"],
    left: [],
  },
  {
    name: "rot in two clean segments",
    on: "latePlog",
    damage: ({ cache }) => {
      flip(cache, slotAt(13) + 5000);
      flip(cache, slotAt(16) + 4096);
    },
    kinds: ["plog-ahead", "plog-leftover", "rot"],
    left: [],
  },
  {
    name: "a clean segment in the middle that is none any more",
    on: "latePlog",
    damage: ({ cache }) => flip(cache, slotAt(15), 0x40),
    kinds: ["damage", "metadata", "plog-gap", "stale"],
    left: [],
  },
  {
    name: "a clean segment in the middle that is gone",
    on: "late",
    damage: ({ cache }) => cache.fill(0, slotAt(17), slotAt(17) + SLOT),
    kinds: ["damage", "stale"],
    left: [],
  },
  {
    name: "a clean segment in the middle that is gone, and rot in another",
    on: "latePlog",
    damage: ({ cache }) => {
      cache.fill(0, slotAt(15), slotAt(15) + SLOT);
      flip(cache, slotAt(13) + 4096);
    },
    kinds: ["damage", "plog-gap", "rot", "stale"],
    left: [],
  },
  {
    name: "rot in a dirty segment",
    on: "plain",
    damage: ({ cache }) => flip(cache, slotAt(16) + 4096),
    kinds: ["rot"],
    left: ["rot"],
  },
  {
    name: "a dirty segment in the middle that is none any more",
    on: "plain",
    damage: ({ cache }) => flip(cache, slotAt(17), 0x40),
    kinds: ["damage", "metadata", "stale"],
    left: ["damage", "metadata", "stale"],
  },
  {
    name: "a superblock record that its copy contradicts",
    on: "plain",
    damage: ({ cache }) => flip(cache, RECORD, 0x40),
    kinds: ["record-copy"],
    left: [],
  },
  {
    name: "a record beyond the end of the log, of an old driver",
    on: "plain",
    damage: ({ cache }) => {
      cache.fill(0, IDENTITY, IDENTITY + 512);
      cache.fill(0xff, RECORD, RECORD + 3);
    },
    kinds: ["record"],
    left: ["record"],
    whole: false,
  },
  {
    name: "a damaged identity record that the plog has a copy of",
    on: "plog",
    damage: ({ cache }) => flip(cache, IDENTITY + 64),
    kinds: ["identity", "plog-ahead"],
    left: [],
  },
  {
    name: "a damaged identity record",
    on: "plain",
    damage: ({ cache }) => flip(cache, IDENTITY + 64),
    kinds: ["identity"],
    left: ["identity"],
  },
  {
    name: "a plog that lacks the name it was given",
    on: "plog",
    damage: ({ plog }) => plog.fill(0, plog.length - 512),
    kinds: ["plog-foreign"],
    left: ["plog-foreign"],
  },
  {
    name: "a plog whose name has lost a bit",
    on: "plog",
    damage: ({ plog }) => flip(plog, plog.length - 512 + 64),
    kinds: ["plog-ahead"],
    left: ["plog-ahead"],
  },
  {
    name: "a torn record in the plog",
    on: "plog",
    damage: ({ plog }) => {
      for (let at = 0; at < plog.length - 512; at += 512) if (plog.readUInt8(at) === 19) flip(plog, at + 600);
    },
    kinds: ["plog-leftover"],
    left: [],
    whole: false,
  },
  {
    name: "a plog that the log does not lead up to",
    on: "plog",
    damage: ({ plog }) => {
      for (let at = 0; at < plog.length - 512; at += 512)
        if (plog.readUInt8(at) === 19) plog.fill(30, at, at + 1);
    },
    kinds: ["plog-gap"],
    left: ["plog-gap"],
    whole: false,
  },
  {
    name: "a header that was zeroed",
    on: "plain",
    damage: ({ cache }) => cache.fill(0, 0, 512),
    kinds: ["superblock"],
    left: [],
  },
  {
    name: "a device that is not formatted",
    on: "plain",
    damage: ({ cache }) => cache.fill(0, 0, 8192),
    kinds: ["superblock"],
    left: ["superblock"],
  },
  {
    name: "something else on the device",
    on: "plain",
    damage: ({ cache }) => cache.fill(0x33, 0, 512),
    kinds: ["superblock"],
    left: ["superblock"],
  },
];

describe.each(cases.map((one) => [one.name, one] as const))(
  "%s",
  (_name, { on, damage, kinds, left, whole = true }) => {
    it("is found, repaired where that needs no guess, and found no more", async () => {
      const disks = disksOf(made[on], damage);
      const before = await kindsOf(disks);
      if (kinds.length > 0 || left.length > 0)
        expect([...new Set(before.map(({ kind }) => kind))].sort()).toEqual([...new Set(kinds)].sort());
      const done = await repair(disks, work);
      expect(done.left.filter((problem) => problem.repair !== undefined)).toEqual([]);
      expect([...new Set(done.left.map(({ kind }) => kind))].sort()).toEqual([...new Set(left)].sort());
      const again = await repair(disks, work);
      expect(again.repaired).toEqual([]);
      expect(await kindsOf(disks)).toEqual(done.left);
      for (const { repair: how, advice } of [...before, ...done.left]) expect(how ?? advice).toBeDefined();
    });

    it("leaves a device that opens and has everything", async () => {
      if (left.some((kind) => kind !== "identity")) return;
      const disks = disksOf(made[on], damage);
      await repair(disks, work);
      await expectWhole(disks, on, whole);
    });

    it("survives a crash at every write of the repair", async () => {
      const random = new SeededRandom(kinds.length + 17);
      const some: Lands = () => random.below(2) === 0;
      for (const lands of [nothing, everything, some]) {
        for (let changes = 0; ; changes += 1) {
          const crashed = await interrupted(disksOf(made[on], damage), changes, lands);
          if (crashed === undefined) break;
          await repair(crashed, work);
          const rest = await repair(crashed, work);
          expect(rest.repaired).toEqual([]);
          expect([...new Set(rest.left.map(({ kind }) => kind))].sort()).toEqual([...new Set(left)].sort());
          if (left.every((kind) => kind === "identity")) await expectWhole(crashed, on, whole);
        }
      }
    });

    it("survives a crash at every write of the repair, and opening instead of another repair", async () => {
      if (left.length > 0) return;
      const { expected } = made[on];
      let unrepaired: Buffer | undefined;
      for (let changes = 0; ; changes += 1) {
        const crashed = await interrupted(disksOf(made[on], damage), changes, everything);
        if (crashed === undefined) break;
        // Refused is right as well: what was refused before still may be.
        const device = await openWriteboost(crashed).catch(() => undefined);
        if (device === undefined) continue;
        const now = await contentsOf(device, expected.length);
        unrepaired ??= now;
        // Rot in the cache may be read until it is repaired; nothing else, and older contents least of all.
        for (let at = 0; at < expected.length; at += 512) {
          const sector = now.subarray(at, at + 512);
          const right = sector.equals(expected.subarray(at, at + 512));
          const asBefore = kinds.includes("rot") && sector.equals(unrepaired.subarray(at, at + 512));
          expect(right || asBefore || !whole, `sector ${at / 512} after ${changes} changes`).toBe(true);
        }
        await device.close();
      }
    });
  },
);

async function expectWhole(disks: Disks, on: Which, whole: boolean): Promise<void> {
  const device = await openWriteboost(disks);
  const { expected } = made[on];
  const above = await contentsOf(device, expected.length);
  if (whole) expect(above.equals(expected)).toBe(true);
  await device.dropCaches();
  expect((await contentsOf(disks.backing, expected.length)).equals(above)).toBe(true);
  await device.close();
}

/** The disks after a crash in front of one change of a repair; undefined if it came to its end before. */
async function interrupted(disks: Disks, changes: number, lands: Lands): Promise<Disks | undefined> {
  let left = changes;
  for (const disk of [disks.cache, disks.plog, disks.backing]) {
    if (disk === undefined) continue;
    disk.refuse = ({ op }) => {
      if (op !== "read") left -= 1;
      return op !== "read" && left < 0;
    };
  }
  const failed = await repair(disks, work).then(
    () => false,
    () => true,
  );
  if (!failed) return undefined;
  const { backing, cache, plog } = disks;
  return { backing: backing.crash(lands), cache: cache.crash(lands), plog: plog?.crash(lands) };
}
