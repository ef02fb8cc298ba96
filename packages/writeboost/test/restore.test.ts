/** Dump and restore: the same metadata bytes again, or nothing written at all. */
import { describe, expect, it } from "vitest";
import { dumpImage, openWriteboost, restore, writeboostImages } from "../src/index.ts";
import {
  type Made,
  IDENTITY,
  RECORD,
  SLOT,
  SLOTS,
  contentsOf,
  disksOf,
  flip,
  make,
  slotAt,
  work,
} from "./support/offline.ts";
import { MIB } from "./support/rig.ts";

/** All that a dump is to keep: the first MiB, the heads of slots, everything of the plog. */
function metadata(cache: Buffer, plog: Buffer | undefined): Buffer {
  const heads = Array.from({ length: SLOTS }, (_, slot) =>
    cache.subarray(MIB + slot * SLOT, MIB + slot * SLOT + 4096),
  );
  return Buffer.concat([cache.subarray(0, MIB), ...heads, plog ?? Buffer.alloc(0)]);
}

/** As if it had been through a file. */
async function dumped(disks: Parameters<typeof dumpImage>[0]): Promise<Record<string, unknown>> {
  return JSON.parse(JSON.stringify(await dumpImage(disks, work))) as Record<string, unknown>;
}

type Damage = NonNullable<Parameters<typeof disksOf>[1]>;

function wipe({ cache, plog }: { cache: Buffer; plog: Buffer }): void {
  cache.fill(0, 512, MIB);
  cache.fill(0x55, 0, 512);
  for (let slot = 0; slot < SLOTS; slot += 1) cache.fill(slot, MIB + slot * SLOT, MIB + slot * SLOT + 4096);
  for (let at = 0; at < plog.length; at += 512) if (plog.readUInt8(at) === 19) plog.fill(0, at, at + 512);
  plog.fill(0, Math.max(0, plog.length - 512));
}

describe.each([
  ["with a plog", {}],
  ["without", { plog: false }],
  ["closed in order", { close: true }],
])("an image %s", (_name, wish) => {
  const damages: [string, Damage][] = [
    ["as it is", () => {}],
    [
      "with rubbish of old drivers in the superblock",
      ({ cache }) => cache.fill(0xcc, 5, 512).fill(0xcc, 600, 700),
    ],
    ["with a torn segment", ({ cache }) => flip(cache, slotAt(18) + 4096)],
    ["with a segment that cannot be", ({ cache }) => flip(cache, slotAt(12), 0x80)],
    ["with a sector that cannot be", ({ cache }) => flip(cache, slotAt(11) + 515, 0x80)],
    ["with a foreign identity record", ({ cache }) => flip(cache, IDENTITY)],
    ["with a record beyond sense", ({ cache }) => cache.fill(0xff, RECORD, RECORD + 8)],
  ];

  it.each(damages)("%s comes back byte for byte", async (_how, damage) => {
    const made = await make(wish);
    const before = disksOf(made, damage);
    const dump = await dumped(before);
    const wiped = disksOf(made, (bytes) => {
      damage(bytes);
      wipe(bytes);
    });
    expect(
      metadata(wiped.cache.visible, wiped.plog?.visible).equals(
        metadata(before.cache.visible, before.plog?.visible),
      ),
    ).toBe(false);
    await restore(wiped, dump, work);
    expect(wiped.cache.stable.equals(before.cache.stable)).toBe(true);
    expect(wiped.plog?.stable.equals(before.plog?.stable as Buffer) ?? true).toBe(true);
    // Looked at, to see whether it is the one.
    expect(wiped.backing.log.filter(({ op }) => op !== "read")).toEqual([]);
  });

  it("is left alone where nothing has changed", async () => {
    const disks = disksOf(await make(wish));
    await restore(disks, await dumped(disks), work);
    expect([disks.cache.asked("write"), disks.plog?.asked("write") ?? 0]).toEqual([0, 0]);
  });
});

async function half(
  made: Made,
  dump: unknown,
  writes: number,
  lands: boolean,
): Promise<ReturnType<typeof disksOf> | "done"> {
  const disks = disksOf(made, wipe);
  let left = writes;
  for (const disk of [disks.cache, disks.plog]) {
    if (disk === undefined) continue;
    disk.refuse = ({ op }) => {
      if (op !== "read") left -= 1;
      return op !== "read" && left < 0;
    };
  }
  const failed = await restore(disks, dump, work).then(
    () => false,
    () => true,
  );
  if (!failed) return "done";
  const after = (_: unknown, sector: number): boolean => lands && sector % 2 === 0;
  return { backing: disks.backing.crash(), cache: disks.cache.crash(after), plog: disks.plog?.crash(after) };
}

it("a crash at any write leaves what nobody opens, and a second restore completes", async () => {
  const made = await make();
  const dump = await dumped(disksOf(made));
  let crashes = 0;
  for (const lands of [false, true]) {
    for (let writes = 1; ; writes += 1) {
      const disks = await half(made, dump, writes, lands);
      if (disks === "done") break;
      crashes += 1;
      const marked = disks.cache.stable.toString("latin1", 0, 15) === "dmkit restoring";
      if (marked) {
        await expect(openWriteboost(disks)).rejects.toMatchObject({ code: "EFORMAT" });
        expect(await writeboostImages.detect(disks.cache)).toMatchObject({
          role: "cache",
          certainty: "magic",
        });
      }
      await restore(disks, dump, work);
      expect(disks.cache.stable.equals(made.cache)).toBe(true);
      expect(disks.plog?.stable.equals(made.plog as Buffer)).toBe(true);
    }
  }
  expect(crashes).toBeGreaterThan(20);
});

describe("what cannot be true is refused, and nothing is written", () => {
  it.each<[string, (dump: Record<string, unknown>) => void]>([
    ["another version", (dump) => (dump["version"] = 2)],
    ["a larger size", (dump) => (dump["cacheBytes"] = MIB + (SLOTS + 1) * SLOT)],
    ["more slots", (dump) => (dump["slots"] = SLOTS + 1)],
    ["fewer slots than the identity record has", (dump) => (dump["slots"] = SLOTS - 1)],
    ["another order", (dump) => (dump["order"] = 6)],
    ["a record that is no number", (dump) => (dump["record"] = "1")],
    ["segments that are no list", (dump) => (dump["segments"] = {})],
    ["a slot beyond the ring", (dump) => (segment(dump)["slot"] = SLOTS)],
    ["a slot twice", (dump) => (dump["segments"] as unknown[]).push(segment(dump))],
    ["an id that does not live there", (dump) => (segment(dump)["id"] = 16)],
    ["too many blocks", (dump) => (segment(dump)["blocks"] = "8x4")],
    ["text that is no list of blocks", (dump) => (segment(dump)["blocks"] = "8x")],
    ["blocks beyond the backing device", (dump) => (segment(dump)["blocks"] = "4096 8 16")],
    ["metadata that the data does not match", (dump) => (segment(dump)["blocks"] = "8 16 24")],
    [
      "an identity record with a bad uuid",
      (dump) => ((dump["identity"] as Record<string, unknown>)["cache"] = "x"),
    ],
    ["bytes that are not base64", (dump) => (dump["raw"] = [{ offset: 512, bytes: "?" }])],
    ["too many bytes", (dump) => (dump["raw"] = [{ offset: 512, bytes: "A".repeat(900) }])],
    ["bytes in the middle of a slot", (dump) => (dump["raw"] = [{ offset: MIB + 512, bytes: "" }])],
    ["a header that is none", (dump) => (dump["raw"] = [{ offset: 0, bytes: "AAAA" }])],
    ["no plog", (dump) => (dump["plog"] = null)],
    ["a plog record that the data does not match", (dump) => (record(dump)["checksum"] = 1)],
    ["a plog record without end", (dump) => (record(dump)["length"] = 9)],
  ])("%s", async (_name, change) => {
    const disks = disksOf(await make());
    const dump = await dumped(disks);
    change(dump);
    await expect(restore(disks, dump, work)).rejects.toMatchObject({ code: "EINVAL" });
    for (const disk of [disks.cache, disks.plog]) expect(disk?.asked("write")).toBe(0);
  });

  it.each([[null], ["text"], [[]], [{}], [17]])("%j", async (dump) => {
    const disks = disksOf(await make());
    await expect(restore(disks, dump, work)).rejects.toMatchObject({ code: "EINVAL" });
  });
});

it("refuses the dump of a cache that has been used since", async () => {
  const made = await make();
  const dump = await dumped(disksOf(made));
  const disks = disksOf(made);
  const device = await openWriteboost(disks);
  for (let block = 0; block < 40; block += 1) await device.write(block * 4096, Buffer.alloc(4096, block));
  await device.close();
  await expect(restore(disks, dump, work)).rejects.toMatchObject({ code: "EINVAL" });
});

it("takes no segment away that came after the dump, unasked, though the header is damaged", async () => {
  const made = await make({ close: true });
  const dump = await dumped(disksOf(made));
  // As it was before the last one was written.
  const segments = dump["segments"] as { readonly id: number }[];
  const last = Math.max(...segments.map(({ id }) => id));
  dump["segments"] = segments.filter(({ id }) => id !== last);
  const damaged = disksOf(made, ({ cache }) => cache.fill(0x55, 0, 512));
  const before = Buffer.from(damaged.cache.stable);
  await expect(restore(damaged, dump, work)).rejects.toMatchObject({ code: "EEXIST" });
  expect(damaged.cache.stable.equals(before)).toBe(true);
  await restore(damaged, dump, { ...work, force: true });
  expect((await dumped(damaged))["segments"]).toEqual(dump["segments"]);
});

it("a restored cache reads as before", async () => {
  const made = await make();
  const dump = await dumped(disksOf(made));
  const disks = disksOf(made, wipe);
  await restore(disks, dump, work);
  const device = await openWriteboost(disks);
  expect((await contentsOf(device, made.expected.length)).equals(made.expected)).toBe(true);
  await device.close();
});

function segment(dump: Record<string, unknown>): Record<string, unknown> {
  return (dump["segments"] as Record<string, unknown>[])[2] as Record<string, unknown>;
}

function record(dump: Record<string, unknown>): Record<string, unknown> {
  const { segments } = dump["plog"] as { segments: { records: Record<string, unknown>[] }[] };
  return segments[0]?.records[0] as Record<string, unknown>;
}
