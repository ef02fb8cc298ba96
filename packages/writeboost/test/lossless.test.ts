/**
 * A flush below that fails and says that nothing was lost (contract/device.ts, rule 5): whoever asked is told, nothing
 * counts as durable, and the next flush covers everything.
 */
import type { BlockIoError } from "@dmkit/block-io";
import { settle } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import type { HandDisk } from "./support/hand.ts";
import { BLOCK, Rig, filled } from "./support/rig.ts";

const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "done",
    (error: unknown) => (error as BlockIoError).code,
  );

/** Flushes of this disk find no space for what it keeps in memory. */
function refuseFlushes(disk: HandDisk | undefined): void {
  Object.assign(disk as HandDisk, { code: "ENOSPC", lossless: true });
  (disk as HandDisk).refuse = ({ op }) => op === "flush";
}

function free(disk: HandDisk | undefined): void {
  (disk as HandDisk).refuse = () => false;
}

const plog = 9 * 512 * 9;

describe("a flush below that fails without a loss", () => {
  it.each([
    ["cache", {}],
    ["plog", { plog }],
  ] as const)("%s: whoever asks is told, and the next one covers everything", async (name, shape) => {
    const rig = new Rig({ slots: 9, ...shape });
    await rig.open();
    await rig.segment(1, 0x11);
    refuseFlushes(rig[name]);
    await rig.write(2, 0x22);
    for (let turn = 0; turn < 2; turn += 1)
      await expect(rig.device.flush()).rejects.toMatchObject({ code: "ENOSPC", lossless: true });
    expect(rig.device.failure).toBeUndefined();
    expect(rig.device.health().state).toBe(name === "cache" ? "failed" : "ok");
    expect(await rig.read(2)).toEqual(filled(0x22));
    await rig.write(3, 0x33);
    free(rig[name]);
    await rig.device.flush();
    expect(rig.device.health().state).toBe("ok");
    await rig.reopen();
    for (const block of [1, 2, 3]) expect(await rig.read(block)).toEqual(filled(block * 0x11));
  });

  it("of the backing device: what went past the log is covered by the next one", async () => {
    const rig = new Rig({ slots: 9, options: { tunables: { sequential_cutoff: 4096 } } });
    await rig.open();
    // From the second one on it is a stream.
    for (const block of [16, 17, 18, 19]) await rig.write(block, 0x77);
    refuseFlushes(rig.backing);
    for (let turn = 0; turn < 2; turn += 1)
      await expect(rig.device.flush()).rejects.toMatchObject({ code: "ENOSPC", lossless: true });
    expect(rig.device.failure).toBeUndefined();
    expect(rig.backing.stable[19 * BLOCK]).toBe(0);
    free(rig.backing);
    await rig.device.flush();
    await rig.reopen();
    for (const block of [16, 17, 18, 19]) expect(await rig.read(block)).toEqual(filled(0x77));
  });

  it("of the backing device during writeback: nothing counts as written back, and it goes on by itself", async () => {
    const rig = new Rig({ slots: 9, options: { tunables: { allow_writeback: 1 } } });
    await rig.open();
    await rig.segment(1, 0x11);
    rig.device.tune({ sequential_cutoff: 4096 });
    for (const block of [16, 17, 18, 19]) await rig.write(block, 0x77);
    refuseFlushes(rig.backing);
    await rig.clock.pass(3000);
    expect(rig.device.statusData).toMatchObject({ lastWritebackId: 0, trouble: { dead: 0 } });
    expect(rig.device.failure).toBeUndefined();
    free(rig.backing);
    await rig.clock.pass(2000);
    expect(rig.device.statusData.lastWritebackId).toBeGreaterThan(0);
    expect(rig.backing.stable[BLOCK]).toBe(0x11);
  });

  it("of the cache device: the log neither hangs nor goes on without it, and goes on by itself", async () => {
    const rig = new Rig({ slots: 9, options: { pool: 4 } });
    await rig.open();
    refuseFlushes(rig.cache);
    // Each begins a segment, until one may not be written before the others are durable, and memory is full.
    const codes: string[] = [];
    for (let block = 1; block <= 12; block += 1) codes.push(await codeOf(rig.write(block, block)));
    expect(codes[0]).toBe("done");
    expect(codes.at(-1)).toBe("ENOSPC");
    expect(rig.device.failure).toBeUndefined();
    expect(rig.device.health()).toMatchObject({ state: "failed" });
    free(rig.cache);
    await rig.clock.pass(1000);
    await settle();
    expect(rig.device.health().state).toBe("ok");
    const accepted = codes.flatMap((code, index) => (code === "done" ? [index + 1] : []));
    await rig.device.flush();
    await rig.reopen();
    for (const block of accepted) expect(await rig.read(block)).toEqual(filled(block));
  });

  it.each(["cache", "backing"] as const)(
    "of the %s device at the end: the cache is not clean",
    async (name) => {
      const rig = new Rig({ slots: 9 });
      await rig.open();
      await rig.segment(1, 0x11);
      refuseFlushes(rig[name]);
      await codeOf(rig.device.close());
      rig.cache = rig.cache.crash();
      free(rig[name]);
      await rig.open();
      expect(await rig.read(1)).toEqual(filled(0x11));
    },
  );

  it("of the cache device, when the record is written: it is written again", async () => {
    const rig = new Rig({ slots: 9, options: { tunables: { update_record_interval: 1 } } });
    await rig.open();
    await rig.segment(1, 0x11);
    await rig.device.dropCaches();
    refuseFlushes(rig.cache);
    await rig.clock.pass(2000);
    expect(rig.device.statusData.trouble.dead).toBe(0);
    free(rig.cache);
    await rig.clock.pass(2000);
    expect(rig.cache.stable[2047 * 512]).toBe(1);
  });
});
