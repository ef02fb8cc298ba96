/**
 * What real clients did to a write-back cache, replayed: the server's device lies between two layers of
 * log-writes devices, and at every flush and at random moments between the power is cut, the cache is opened on
 * what is left, and the oracle asked whether anything was lost that the client had been promised.
 */
import { join } from "node:path";
import {
  type BlockDevice,
  LinearDevice,
  LogWritesDevice,
  MemoryDevice,
  realEnvironment,
} from "@dmkit/block-io";
import {
  type LoggedDisk,
  type ReplaySummary,
  isDeep,
  oracleCheck,
  replayWriteLog,
} from "@dmkit/block-io/testing";
import { NbdServer, openNbd } from "@dmkit/nbd";
import { openWriteboost } from "@dmkit/writeboost";
import { describe, expect, it } from "vitest";
import { cleanUp, describeWith, succeed, tempFolder } from "./support.ts";

const MIB = 2 ** 20;
const SIZE = MIB / 2;
const CACHE = MIB + 12 * 8192;
const MINUTES = 5 * 60_000;

interface Recorded {
  readonly top: BlockDevice;
  readonly disks: readonly LoggedDisk[];
}

function cached(disks: readonly BlockDevice[]): Promise<BlockDevice> {
  const [backing, cache] = disks;
  if (backing === undefined || cache === undefined) throw new Error("two disks are needed");
  return openWriteboost(
    { backing, cache, plog: undefined },
    { order: 4, tunables: { allow_writeback: 1 }, environment: realEnvironment },
  );
}

/** A disk whose flushes do nothing. */
class Unflushed extends LinearDevice {
  protected override async doFlush(): Promise<void> {}
}

/** Serves a cache while `client` works on it; resolves with the logs. */
async function recorded(client: (uri: string) => Promise<void>, flushes = true): Promise<Recorded> {
  const disks: LoggedDisk[] = [];
  const lowers: BlockDevice[] = [];
  for (const size of [SIZE, CACHE]) {
    const log = new MemoryDevice(256 * MIB);
    disks.push({ log, size });
    const disk = await LogWritesDevice.open(new MemoryDevice(size), log, size, realEnvironment);
    lowers.push(flushes ? disk : new Unflushed(disk, 0, size));
  }
  const device = await cached(lowers);
  const top = new MemoryDevice(256 * MIB);
  const upper = await LogWritesDevice.open(device, top, device.size, realEnvironment);
  const server = new NbdServer();
  cleanUp(() => server.close({ timeout: 100 }));
  server.addExport({ name: "", device: upper });
  const path = join(tempFolder(), "nbd.sock");
  await server.listen({ path });
  await client(`nbd+unix:///?socket=${path}`);
  return { top, disks };
}

async function replayed({ top, disks }: Recorded): Promise<ReplaySummary> {
  const check = await oracleCheck({ top, open: cached });
  return replayWriteLog({ disks, check, subsets: 1, between: 0.005 });
}

async function writesAndFlushes(uri: string): Promise<void> {
  const device = await openNbd(uri);
  for (let n = 0; n < (isDeep ? 60 : 36); n += 1) {
    const offset = ((n * 7919) % (SIZE / 512 - 32)) * 512;
    const length = 512 * (1 + (n % 24));
    const writes = [0, 4096].map((more) =>
      device.write(offset + more, Buffer.alloc(length, `${n} ${more} `), { fua: n % 7 === 0 }),
    );
    await Promise.all(writes);
    if (n % 5 === 0) await device.flush();
  }
  await device.close();
}

describe("a recorded run of the client package", () => {
  it(
    "leaves nothing behind that breaks a promise",
    async () => {
      const summary = await replayed(await recorded(writesAndFlushes));
      expect(summary.failures).toEqual([]);
      expect(summary.crashes).toBeGreaterThan(30);
    },
    MINUTES,
  );

  it(
    "shows that the disks were never flushed",
    async () => {
      const { failures } = await replayed(await recorded(writesAndFlushes, false));
      expect(failures).not.toEqual([]);
    },
    MINUTES,
  );
});

describeWith(["fio"], "a recorded run of fio", () => {
  it(
    "leaves nothing behind that breaks a promise",
    async () => {
      const logs = await recorded(async (uri) => {
        const job = ["--name=j", "--ioengine=nbd", `--uri=${uri}`, "--rw=randwrite", "--bsrange=512-16k"];
        await succeed("fio", [
          ...job,
          `--size=${SIZE}`,
          `--io_size=${isDeep ? "1m" : "512k"}`,
          "--iodepth=8",
          "--fsync=16",
        ]);
      });
      const summary = await replayed(logs);
      expect(summary.failures).toEqual([]);
      expect(summary.crashes).toBeGreaterThan(30);
    },
    MINUTES,
  );
});
