/**
 * A disk whose archive is in a bucket that is away for an hour; and how many objects its log takes there. All of it is the
 * program itself, on a simulated bucket and a simulated clock.
 */
import { Archive, attachTo, claim, randomToken, replayOnto } from "@dmkit/archive";
import { type BlockDevice, type Environment, MemoryDevice } from "@dmkit/block-io";
import { ManualClock, SeededRandom, manualEnvironment } from "@dmkit/block-io/testing";
import { RetryingStore } from "@dmkit/object-store";
import { SimulatedBucket, SimulatedTransport } from "@dmkit/object-store/testing";
import { expect, it } from "vitest";
import type { WriteboostDevice } from "../src/device/device.ts";
import { openWriteboost } from "../src/open/open.ts";

const MIB = 2 ** 20;
const SIZE = 4 * MIB;
const SECOND = 1000;
const HOUR = 3600 * SECOND;

class World {
  readonly clock = new ManualClock();
  readonly environment: Environment = {
    ...manualEnvironment(1, this.clock),
    random: new SeededRandom(1),
  };
  readonly bucket = new SimulatedBucket();

  store(): RetryingStore {
    const { environment } = this;
    return new RetryingStore(new SimulatedTransport(this.bucket, { environment }), { environment });
  }

  /** @param slots of 127 blocks. */
  open(flush: "local" | "remote", slots: number): Promise<WriteboostDevice> {
    const { environment } = this;
    const cache = new MemoryDevice(MIB + slots * 512 * 2 ** 10);
    const attach = (local: Parameters<typeof attachTo>[2]): ReturnType<typeof attachTo> =>
      attachTo(this.store(), "vm1", local, { codec: "none", host: "here" });
    const devices = { backing: new MemoryDevice(SIZE), cache, plog: undefined };
    return this.until(openWriteboost(devices, { archive: { attach, flush }, environment }));
  }

  /** Lets time pass until it is over; an hour and more at the most. */
  async until<T>(work: Promise<T>): Promise<T> {
    let isOver = false;
    const end = (): void => void (isOver = true);
    work.then(end, end);
    await this.clock.passUntil(() => isOver, this.clock.now() + 2 * HOUR, 3);
    expect(isOver).toBe(true);
    return work;
  }

  /** The disk as whoever takes it over has it. */
  async taken(): Promise<Buffer> {
    const { environment } = this;
    const archive = new Archive(this.store(), "vm1", { codec: "none" });
    const disk = new MemoryDevice(SIZE);
    const token = randomToken(environment);
    const { before } = await this.until(claim(archive, { token, host: "there", environment }));
    await this.until(replayOnto(archive, before, disk));
    return contents(disk);
  }

  get objects(): number {
    return [...this.bucket.objects.keys()].filter((key) => key.includes("/log/")).length;
  }
}

async function contents(device: BlockDevice): Promise<Buffer> {
  const bytes = Buffer.alloc(SIZE);
  await device.read(0, bytes);
  return bytes;
}

it("a store that is away for an hour holds up a full log and remote flushes, loses nothing, and goes on", async () => {
  const world = new World();
  const { bucket, clock } = world;
  const device = await world.open("remote", 4);
  await device.write(0, Buffer.alloc(4096, 1));
  await world.until(device.flush());
  const before = bucket.objects.size;
  bucket.isAway = true;
  let written = 0;
  let flushed = false;
  const writing = (async () => {
    for (; written < 1000; written += 1)
      await device.write((written * 4096) % SIZE, Buffer.alloc(4096, 1 + (written % 255)));
  })();
  const flush = device.flush().then(() => (flushed = true));
  await clock.passUntil(() => false, clock.now() + HOUR, 3);
  // The log is full, and whoever waits is told why; what was acknowledged is read.
  expect([flushed, written < 1000, bucket.objects.size]).toEqual([false, true, before]);
  expect(device.health()).toMatchObject({
    state: "degraded",
    why: expect.stringMatching(
      /on this machine only, and writes wait since the log is full: .*nobody answers/,
    ),
  });
  expect(Number(device.facts()["unshipped_seconds"])).toBeGreaterThan(3500);
  const block = Buffer.alloc(4096);
  await device.read(4096 * (written - 1), block);
  expect(block[0]).toBe(1 + ((written - 1) % 255));
  // Nobody can take it over meanwhile, and is told in a minute.
  const archive = new Archive(world.store(), "vm1");
  const asked = clock.now();
  const claimant = { token: randomToken(world.environment), host: "there", environment: world.environment };
  await expect(world.until(claim(archive, claimant))).rejects.toMatchObject({ code: "ENOTCONN" });
  expect(clock.now() - asked).toBeLessThan(60 * SECOND);

  bucket.isAway = false;
  await world.until(Promise.all([writing, flush]));
  await world.until(device.flush());
  expect(device.health()).toMatchObject({ state: "ok" });
  const disk = await contents(device);
  await world.until(device.close());
  expect((await world.taken()).equals(disk)).toBe(true);
});

it("what was written together goes to the store in objects of four mebibytes", async () => {
  const world = new World();
  const device = await world.open("local", 64);
  const before = world.objects;
  world.bucket.isAway = true;
  // 16 MiB of random writes of 4 KiB.
  const random = new SeededRandom(7);
  for (let n = 0; n < 4096; n += 1)
    await device.write(4096 * random.below(SIZE / 4096), Buffer.alloc(4096, 1 + (n % 255)));
  world.bucket.isAway = false;
  await world.until(device.flush());
  const disk = await contents(device);
  await world.until(device.close());
  // At $5 a million PUTs it is half a cent for a million writes.
  expect(world.objects - before).toBeLessThanOrEqual(1 + 4096 / 1000 + 1);
  expect((await world.taken()).equals(disk)).toBe(true);
});

it("with local flushes the store is asked once a second at the most, however often there is one", async () => {
  const world = new World();
  const device = await world.open("local", 64);
  const before = world.objects;
  for (let n = 0; n < 600; n += 1) {
    await device.write(4096 * (n % 64), Buffer.alloc(4096, 1 + (n % 255)));
    await world.until(device.flush());
    await world.clock.pass(100);
  }
  // A minute. 2.6 million PUTs a month are $13.
  expect(world.objects - before).toBeLessThanOrEqual(61);
  expect(world.objects - before).toBeGreaterThan(30);
  await world.until(device.close());
});
