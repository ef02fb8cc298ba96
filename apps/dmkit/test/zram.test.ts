/** zram as a user has it: served by command line, verified by real clients, and full. */
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { BlockDevice, BlockIoError } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { openNbd } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import { describeWith, run, serve, succeed, tempFolder } from "./support.ts";

const MIB = 2 ** 20;
const MINUTES = 5 * 60_000;

describeWith(["fio"], "fio", () => {
  it.each(["lz4", "zstd", "lzo"])(
    "verifies sizes of 512 B to 64 KiB, compressible in part, with %s",
    async (algorithm) => {
      const { uri } = await serve(["--table", `0 ${(32 * MIB) / 512} zram ${algorithm}`]);
      await succeed(
        "fio",
        [
          "--name=verify",
          "--ioengine=nbd",
          `--uri=${uri}`,
          "--rw=randwrite",
          "--bsrange=512-64k",
          "--blockalign=512",
          "--buffer_compress_percentage=50",
          "--refill_buffers",
          "--iodepth=32",
          "--size=16m",
          "--verify=crc32c",
          "--verify_fatal=1",
          "--verify_state_save=0",
          "--do_verify=1",
          "--randseed=17",
        ],
        { cwd: tempFolder() },
      );
    },
    MINUTES,
  );
});

const PAGE = 4096;

async function connected<Result>(
  uri: string,
  work: (device: BlockDevice) => Promise<Result>,
): Promise<Result> {
  const device = await openNbd(uri);
  try {
    return await work(device);
  } finally {
    await device.close();
  }
}

/**
 * Writes pages, some in part, some again, some that repeat themselves, to a disk that is too small for all of them;
 * what is there then by what was acknowledged, and how many writes were refused.
 */
async function overfill(
  device: BlockDevice,
  random: SeededRandom,
): Promise<{ model: Buffer; refused: number }> {
  const pages = device.size / PAGE;
  const model = Buffer.alloc(device.size);
  let refused = 0;
  for (let turn = 0; turn < pages; turn += 1) {
    // Several at a time, each on a page of its own.
    const writes = Array.from({ length: 8 }, async (_, lane) => {
      const page = lane + 8 * random.below(pages / 8);
      const kind = random.below(4);
      const at = page * PAGE + (kind === 0 ? 512 * random.below(7) : 0);
      const data = random.fill(Buffer.alloc(kind === 0 ? 512 : PAGE));
      if (kind === 1) data.fill(data.subarray(0, 8));
      try {
        await device.write(at, data);
        data.copy(model, at);
      } catch (error) {
        expect((error as BlockIoError).code).toBe("ENOSPC");
        refused += 1;
      }
    });
    await Promise.all(writes);
  }
  // Not left to chance: all of it noise is more than there is memory for.
  for (let page = 0; page < pages; page += 1) {
    const data = random.fill(Buffer.alloc(PAGE));
    await device.write(page * PAGE, data).then(
      () => void data.copy(model, page * PAGE),
      (error: BlockIoError) => {
        expect(error.code).toBe("ENOSPC");
        refused += 1;
      },
    );
  }
  await device.flush();
  return { model, refused };
}

async function contentsOf(device: BlockDevice): Promise<Buffer> {
  const bytes = Buffer.alloc(device.size);
  await device.read(0, bytes);
  return bytes;
}

describe("a full disk", () => {
  it("gives clients ENOSPC, and keeps everything that was acknowledged", async () => {
    const { uri } = await serve(["--table", `0 ${(2 * MIB) / 512} zram lz4 2 mem_limit 1M`]);
    const seed = Number(process.env["DMKIT_SEED"] ?? 1 + (process.pid % 1000));
    const { model, refused } = await connected(uri, (device) => overfill(device, new SeededRandom(seed)));
    expect(refused, `seed ${seed}`).toBeGreaterThan(0);
    expect((await connected(uri, contentsOf)).equals(model), `seed ${seed}`).toBe(true);
  });
});

describeWith(["fio"], "fio on a full disk", () => {
  it(
    "is told that no space is left",
    async () => {
      const { uri } = await serve(["--table", `0 ${(2 * MIB) / 512} zram lz4 2 mem_limit 1M`]);
      const { code, stdout, stderr } = await run(
        "fio",
        [
          "--name=fill",
          "--ioengine=nbd",
          `--uri=${uri}`,
          "--rw=write",
          "--bs=4k",
          "--size=2m",
          "--refill_buffers",
        ],
        { cwd: tempFolder() },
      );
      expect(code).not.toBe(0);
      expect(stdout + stderr).toMatch(/No space left/);
    },
    MINUTES,
  );
});

describe("a disk with a snapshot", () => {
  it("has what was there when the server was stopped", async () => {
    const snapshot = join(tempFolder(), "snapshot");
    writeFileSync(snapshot, "");
    truncateSync(snapshot, 5 * MIB);
    const table = `0 ${(2 * MIB) / 512} zram zstd 2 snapshot ${snapshot}`;
    const first = await serve(["--table", table]);
    const data = new SeededRandom(3).fill(Buffer.alloc(100 * PAGE));
    await connected(first.uri, (device) => device.write(20 * PAGE, data));
    expect(await first.stop()).toBe(0);
    const second = await serve(["--table", table]);
    const found = await connected(second.uri, contentsOf);
    expect(found.subarray(20 * PAGE, 120 * PAGE).equals(data)).toBe(true);
    expect(await second.stop()).toBe(0);
  });
});
