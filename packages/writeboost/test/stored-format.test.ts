/** Tables that name another format than the device has: refused, and not a byte written. */
import { type BlockIoError, TableArguments } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { IDENTITY_START, decodeIdentity, encodeIdentity } from "../src/format/identity.ts";
import { type Dialect, openAt, replay, writeboost } from "../src/index.ts";
import { check } from "./support/check.ts";
import { BLOCK, MIB, Rig, filled } from "./support/rig.ts";

const other = (dialect: Dialect): Dialect => (dialect === "v2" ? "classic" : "v2");

/** Three flushed blocks, and then the end: in order or not. */
async function used(dialect: Dialect, closed: boolean, order = 10): Promise<Rig> {
  const rig = new Rig({ order, slots: 4, options: { dialect } });
  const device = await rig.open();
  for (const block of [1, 2, 3]) await rig.segment(block, 0x10 + block);
  if (closed) await device.close();
  await rig.crash();
  return rig;
}

async function refusal(rig: Rig, work: Promise<unknown>): Promise<BlockIoError> {
  const before = [rig.backing, rig.cache].map(({ visible }) => Buffer.from(visible));
  const error = await work.then(
    () => expect.fail("not refused"),
    (reason: unknown) => reason as BlockIoError,
  );
  for (const [index, disk] of [rig.backing, rig.cache].entries())
    expect(disk.visible.equals(before[index] as Buffer)).toBe(true);
  return error;
}

/** As another driver would have left it: without an identity record, and this in the byte of the order. */
function forget({ cache }: Rig, order: number): void {
  for (const bytes of [cache.visible, cache.stable]) {
    bytes.fill(0, IDENTITY_START, IDENTITY_START + BLOCK);
    bytes[4] = order;
  }
}

async function shows(rig: Rig): Promise<void> {
  for (const block of [1, 2, 3]) expect(await rig.read(block)).toEqual(filled(0x10 + block));
}

describe.each(["classic", "v2"] as const)("a cache of the %s dialect", (dialect) => {
  it.each([
    ["after a crash", false],
    ["closed in order", true],
  ] as const)("is not opened as another, %s", async (_name, closed) => {
    const rig = await used(dialect, closed);
    const wrong = other(dialect);
    for (const attempt of [
      () => rig.open({ dialect: wrong }),
      () => openAt({ backing: rig.backing, cache: rig.cache }, 3, { dialect: wrong }),
    ]) {
      const error = await refusal(rig, attempt());
      expect(error.code).toBe("EINVAL");
      expect(error.message).toContain(`of the ${dialect} dialect, not of ${wrong}`);
      expect(error.hint).toContain(`say ${dialect}`);
    }
    const [problem] = await check(rig.cache, rig.backing, { dialect: wrong });
    expect(problem?.text).toContain(`of the ${dialect} dialect`);
    await rig.open({ dialect: undefined });
    await shows(rig);
  });

  it.each([10, 5])(
    "is known by its segments where nothing else says so (byte of the order: %i)",
    async (byte) => {
      const order = dialect === "classic" ? byte : 10;
      const rig = await used(dialect, false, order);
      forget(rig, byte);
      const error = await refusal(rig, rig.open({ dialect: other(dialect), order: undefined }));
      expect(error.code).toBe("EINVAL");
      expect(error.message).toContain(`of the ${dialect} dialect`);
      await rig.open({ dialect: undefined, order: undefined });
      await shows(rig);
      expect(rig.device.settings()).toMatchObject({ segment_size_order: order });
    },
  );

  it("with segments of the other dialect, as earlier versions could leave it, loses none of them", async () => {
    const rig = await used(dialect, false);
    const [first] = [rig.cache.visible.subarray(MIB, MIB + 2 * BLOCK)];
    const sealed = ~first.readUInt32LE(8) >>> 0;
    for (const bytes of [rig.cache.visible, rig.cache.stable]) bytes.writeUInt32LE(sealed, MIB + 8);
    const identity = decodeIdentity(rig.cache.visible.subarray(IDENTITY_START, IDENTITY_START + BLOCK));
    if (typeof identity !== "object") return expect.fail("no identity record");
    // Not one of them is in the dialect of the record.
    for (const bytes of [rig.cache.visible, rig.cache.stable])
      encodeIdentity({ ...identity, dialect: other(dialect) }).copy(bytes, IDENTITY_START);
    await rig.open({ dialect: undefined });
    await shows(rig);
    await rig.device.close();
    expect(await replay(rig.cache, rig.backing)).toBe(3);
    expect(rig.backing.visible.readUInt8(3 * BLOCK)).toBe(0x13);
  });
});

it("a table of the later drivers says how to write it for a classic cache", async () => {
  const rig = await used("classic", false);
  const args = new TableArguments("hdd ssd".split(" "));
  const error = await refusal(rig, rig.open({ dialect: writeboost.parse(args).dialect }));
  expect(error.hint).toContain('"0 <backing> <cache>"');
});

it("another segment_size_order is refused, also where no identity record is", async () => {
  const rig = await used("classic", false, 5);
  for (const step of [() => {}, () => forget(rig, 5)]) {
    step();
    const error = await refusal(rig, rig.open({ order: 6 }));
    expect(error.code).toBe("EINVAL");
    expect(error.message).toContain("segment_size_order 5, not 6");
  }
});
