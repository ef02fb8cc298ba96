/** Bitmaps of what has changed, and what is wrong with them. */
import { u32, u64 } from "./bytes.ts";
import { CLEAN, type Case } from "./case.ts";
import { flip, move, plus, resize, scribble, unnamed, zero } from "./image.ts";
import { closed, copies, crashed, data, field, pageOfA, pageOfB } from "./tracked.ts";

const [first, second] = copies;

/** Something that is put right from what is left, and costs nothing of the device. */
const mended = (kind: string, count = ""): Omit<Case, "name" | "on" | "damage"> => ({
  found: [`${count}warning bitmap ${kind}`],
  repaired: [`${count}warning bitmap ${kind}`],
  exits: [4, 1, 0],
  shows: ["all", "all"],
});

const hopeless = (found: string, shows: string): Omit<Case, "name" | "on" | "damage"> => ({
  found: [found],
  exits: [4, 4, 4],
  shows: [shows, shows],
});

export const trackedCases: readonly Case[] = [
  { name: "bitmaps", on: closed, damage: [], ...CLEAN },
  { name: "bitmaps after a crash", on: crashed, damage: [], ...CLEAN },
  { name: "bitmaps, and nobody names the device", on: closed, damage: [unnamed("device")], ...CLEAN },
  {
    name: "a bit of the first superblock of bitmaps",
    on: closed,
    damage: [flip(plus(first, 540))],
    ...mended("superblock-copy"),
  },
  {
    name: "the second superblock of bitmaps zeroed",
    on: crashed,
    damage: [zero(second, 8192)],
    ...mended("superblock-copy"),
  },
  {
    name: "the head of bitmaps overwritten",
    on: closed,
    damage: [scribble(first, 65_536)],
    ...mended("superblock-copy"),
  },
  {
    name: "a superblock of bitmaps that is older than the other one",
    on: closed,
    damage: [field([1], 32, u64(1), "has generation 1")],
    found: ["info bitmap superblock-copy"],
    repaired: ["info bitmap superblock-copy"],
    exits: [0, 0, 0],
    shows: ["all", "all"],
  },
  {
    name: "bits of both superblocks of bitmaps",
    on: closed,
    damage: [flip(plus(first, 600)), flip(plus(second, 600))],
    ...hopeless("error bitmap no-superblock", "EFORMAT"),
  },
  {
    name: "bitmaps of a later version",
    on: closed,
    damage: [field([0, 1], 8, u32(2), "has version 2")],
    ...hopeless("error bitmap no-superblock", "EFORMAT"),
  },
  {
    name: "bitmaps in chunks of no power of two",
    on: closed,
    damage: [field([0, 1], 48, u64(5000), "has chunks of 5000 bytes")],
    ...hopeless("error bitmap no-superblock", "EFORMAT"),
  },
  {
    name: "both superblocks of bitmaps zeroed, and somebody says what it is",
    on: closed,
    damage: [zero(first, 8192), zero(second, 8192)],
    type: "tracked",
    ...hopeless("error bitmap no-superblock", "EFORMAT"),
  },
  {
    name: "a bit of a page of bitmaps",
    on: closed,
    damage: [flip(plus(pageOfA, 40))],
    ...mended("lost-page"),
  },
  { name: "a page of bitmaps zeroed", on: crashed, damage: [zero(pageOfB, 512)], ...mended("lost-page") },
  {
    name: "a page of bitmaps that belongs to another epoch",
    on: closed,
    damage: [move(pageOfA, pageOfB, 512)],
    ...mended("lost-page"),
  },
  {
    name: "all pages of bitmaps overwritten",
    on: crashed,
    damage: [scribble(pageOfA, 8192)],
    ...mended("lost-page", "2 "),
  },
  {
    name: "bitmaps that were cut short",
    on: closed,
    damage: [resize("bitmap", -4096)],
    ...hopeless("error bitmap too-small", "EINVAL"),
  },
  {
    name: "bitmaps of a device that was cut short",
    on: closed,
    damage: [resize("device", -4096)],
    ...hopeless("error device data-too-small", "EINVAL"),
  },
  {
    name: "bitmaps of a device that was changed without them",
    on: closed,
    damage: [scribble(plus(data, 8192), 512)],
    ...hopeless("warning device changed-data", "rot 2"),
    why: "The device is not theirs to check: that it has changed is known, and everything is marked.",
  },
];
