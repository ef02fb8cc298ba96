/**
 * Disks whose machines are lost, again and again, with all that was on them: what the next one finds in the bucket is
 * compared with what was written. Requests to the bucket are refused, lose their answers, or land late.
 *
 * What must hold: the disk that is taken over is as it was after some write of those before, in their order; not before
 * the last one that was known to be in the bucket; and with `flush=remote` not before the last one that was flushed.
 */
import { type BlockDevice, BlockIoError, type Environment, MemoryDevice, codeOf } from "@dmkit/block-io";
import { ManualClock, SeededRandom, manualEnvironment } from "@dmkit/block-io/testing";
import { Archive, attachTo, claim, randomToken, replayOnto } from "@dmkit/archive";
import { RetryingStore } from "@dmkit/object-store";
import { SimulatedBucket, SimulatedTransport } from "@dmkit/object-store/testing";
import type { AttachArchive, SegmentArchive } from "../../src/device/archive/segment-archive.ts";
import { type Rules, rules as ours } from "../../src/core/rules.ts";
import type { WriteboostDevice } from "../../src/device/device.ts";
import type { Devices } from "../../src/device/recovered.ts";
import type { Dialect } from "../../src/format/checksum.ts";
import { plogSegmentSize } from "../../src/format/geometry.ts";
import { openWith } from "../../src/open/open.ts";

const BLOCKS = 24;
const SIZE = BLOCKS * 4096;
const SECTORS = SIZE / 512;
const DISK = "disk";

export interface Settings {
  readonly flush: "local" | "remote";
  readonly rules?: Partial<Rules>;
  /** Puts a fault into what the cache believes to be the archive. */
  readonly alter?: (archive: SegmentArchive) => SegmentArchive;
}

/** One disk by a seed; what did not hold, if anything. */
export async function runBucketOnly(seed: number, settings: Settings): Promise<string | undefined> {
  return await new Story(seed, settings).run();
}

/** A machine with the disk. */
interface Machine {
  readonly device: WriteboostDevice;
  readonly devices: Devices;
  readonly token: string;
  /** Contents by sector, after each of its writes; the first are what it began with. */
  readonly states: Uint32Array[];
  /** The number of the write before which it cannot be found any more in the bucket, and on its own disks. */
  least: number;
  flushed: number;
  /** The number of the write after which it was found. */
  found: number | undefined;
  isOver: boolean;
}

class Story {
  readonly #seed: number;
  readonly #settings: Settings;
  readonly #random: SeededRandom;
  readonly #clock = new ManualClock();
  readonly #environment: Environment;
  readonly #bucket = new SimulatedBucket();
  readonly #all: Machine[] = [];
  #violation: Violation | undefined;
  #stamp = 1;

  constructor(seed: number, settings: Settings) {
    this.#seed = seed;
    this.#settings = settings;
    this.#random = new SeededRandom(seed);
    this.#environment = manualEnvironment(seed, this.#clock);
  }

  async run(): Promise<string | undefined> {
    const machines = 2 + this.#random.below(3);
    let before: Machine | undefined;
    try {
      for (let number = 0; number < machines; number += 1) {
        const machine: Machine = await this.#until(this.#next(before));
        await this.#until(this.#use(machine));
        // Some go on without knowing that they are lost.
        if (this.#random.chance(0.5)) void this.#use(machine).catch(() => {});
        else machine.isOver = true;
        this.#all.push(machine);
        before = machine;
      }
      await this.#until(this.#begin(before));
      // What those who did not know said later is no truer than what was found.
      for (const { found, least } of this.#all)
        if (found !== undefined && found < least)
          return `seed ${this.#seed}: ${least} were safe, ${found} were found`;
      return undefined;
    } catch (error) {
      if (error instanceof Violation) return `seed ${this.#seed}: ${error.message}`;
      throw error;
    }
  }

  /** Lets time pass until it is over. */
  async #until<T>(work: Promise<T>): Promise<T> {
    let isOver = false;
    const watched = work.finally(() => (isOver = true));
    watched.catch(() => {});
    const end = this.#clock.now() + 3_600_000;
    await this.#clock.passUntil(() => isOver || this.#violation !== undefined, end, 3);
    if (this.#violation !== undefined) throw this.#violation;
    if (!isOver) throw new Violation("something does not end");
    return watched;
  }

  /** The next machine; or the same one again, as it was when its process ended. */
  async #next(before: Machine | undefined): Promise<Machine> {
    if (before !== undefined && this.#random.chance(0.35)) {
      try {
        return await this.#again(before);
      } catch (error) {
        // What it lacks is in the archive since: whoever did not know that it had ended has shipped it.
        if (codeOf(error) !== "EFORMAT") throw error;
      }
    }
    return this.#begin(before);
  }

  /** A machine takes the disk over; what it finds is held against what was done on the one before. */
  async #begin(before: Machine | undefined): Promise<Machine> {
    const backing = new MemoryDevice(SIZE, { name: "backing" });
    const token = randomToken(this.#environment);
    if (before !== undefined) {
      await this.#untilTaken(async (archive) => {
        const { before: walk } = await claim(archive, {
          token,
          host: "test",
          environment: this.#environment,
        });
        await replayOnto(archive, walk, backing);
      });
    }
    const states = [await contentsOf(backing)];
    if (before !== undefined) before.found = judge(states[0] as Uint32Array, before, before.least);
    const dialect = this.#random.pick(["classic", "classic", "classic", "v2"] as const);
    const order = dialect === "v2" ? 10 : this.#random.pick([4, 5, 6]);
    const slots = 3 + this.#random.below(dialect === "v2" ? 2 : 12);
    const cache = new MemoryDevice(2 ** 20 + slots * 512 * 2 ** order, { name: "cache" });
    const hasPlog = dialect === "classic" && this.#random.chance(0.3);
    const plog = hasPlog ? new MemoryDevice(4 * plogSegmentSize(order), { name: "plog" }) : undefined;
    return this.#open({ backing, cache, plog }, token, states, { order, dialect });
  }

  /** The same disks: what is in them now, whatever the one that goes on does to its own. */
  async #again(before: Machine): Promise<Machine> {
    const { backing, cache, plog } = before.devices;
    // At one moment: memory is copied at once.
    const devices = { backing: copyOf(backing), cache: copyOf(cache), plog: plog && copyOf(plog) };
    const { flushed, states } = before;
    const machine = await this.#open(devices, before.token, [...states], {});
    const contents = await contentsOf(machine.device);
    const at = judge(contents, before, flushed);
    // What was found is what goes on; the numbers stay.
    machine.states.length = at + 1;
    machine.least = Math.min(before.least, at);
    return machine;
  }

  async #open(
    devices: Devices,
    token: string,
    states: Uint32Array[],
    given: { readonly order?: number; readonly dialect?: Dialect },
  ): Promise<Machine> {
    const machine = {
      states,
      devices,
      token,
      least: 0,
      flushed: 0,
      found: undefined,
      isOver: false,
    } as unknown as {
      -readonly [Key in keyof Machine]: Machine[Key];
    };
    const attach: AttachArchive = async (local) => {
      const to = await this.#retried(() =>
        attachTo(this.#store(), DISK, local, { codec: "none", host: "test" }),
      );
      const watched = this.#watched(to, machine, await this.#arrived());
      return this.#settings.alter?.(watched) ?? watched;
    };
    machine.device = await openWith(
      devices,
      {
        ...given,
        pool: this.#random.pick([1, 2, 8]),
        archive: { attach, token, flush: this.#settings.flush },
        tunables: {
          allow_writeback: this.#random.below(2),
          read_cache_threshold: this.#random.pick([0, 8]),
          sequential_cutoff: this.#random.pick([0, 4096]),
        },
        environment: this.#environment,
      },
      { ...ours, ...this.#settings.rules },
    );
    return machine;
  }

  /** What is in the archive. */
  async #arrived(): Promise<Uint32Array> {
    const disk = new MemoryDevice(SIZE);
    await this.#untilTaken(async (archive) => {
      const newest = await archive.newestEpoch();
      await replayOnto(archive, await archive.walk(newest?.number ?? 0), disk);
    });
    return contentsOf(disk);
  }

  /** What has arrived for sure. */
  #watched(to: SegmentArchive, machine: Machine, arrived: Uint32Array): SegmentArchive {
    const tell = (what: string): void => {
      this.#violation ??= new Violation(what);
    };
    return {
      name: to.name,
      shipped: to.shipped,
      offset: to.offset,
      get trouble() {
        return to.trouble;
      },
      async write(first, segments) {
        await to.write(first, segments);
        for (const { sectors, bits, data } of segments) {
          for (const [block, sector] of sectors.entries())
            for (let bit = 0; bit < 8; bit += 1)
              if (((bits[block] as number) & (1 << bit)) !== 0)
                arrived[sector + bit] = data.readUInt32LE(block * 4096 + bit * 512);
        }
        const found = machine.states.findIndex((state) => state.every((stamp, at) => stamp === arrived[at]));
        if (found < 0) tell("what was shipped is no state the disk was ever in");
        machine.least = Math.max(machine.least, found);
      },
      close: () => to.close(),
    };
  }

  async #use(machine: Machine): Promise<void> {
    const { device, states } = machine;
    const flushes: Promise<void>[] = [];
    try {
      for (let steps = 10 + this.#random.below(60); steps > 0 && !machine.isOver; steps -= 1) {
        const fate = this.#random.next();
        if (fate < 0.12) {
          const flush = this.#flush(machine);
          flush.catch(() => {});
          flushes.push(flush);
        } else if (fate < 0.2) await this.#pause(this.#random.next() * 2500);
        else if (fate < 0.25) await device.read(0, Buffer.alloc(SIZE));
        else await this.#write(device, states);
      }
      await Promise.all(flushes);
    } catch (error) {
      await Promise.allSettled(flushes);
      if (codeOf(error) !== "ESHUTDOWN") throw error;
    }
  }

  async #write(device: BlockDevice, states: Uint32Array[]): Promise<void> {
    const kind = this.#random.next();
    const block = this.#random.below(BLOCKS);
    const isWhole = kind < 0.6 || kind > 0.95;
    const from = isWhole ? 0 : this.#random.below(8);
    const count = isWhole ? 8 : 1 + this.#random.below(8 - from);
    const isZero = kind > 0.9;
    const stamp = isZero ? 0 : this.#stamp++;
    const state = Uint32Array.from(states.at(-1) as Uint32Array);
    state.fill(stamp, block * 8 + from, block * 8 + from + count);
    const offset = block * 4096 + from * 512;
    // It may be found from when it is asked for; a request is carried out whole, as it lies in one block.
    states.push(state);
    if (isZero) await device.writeZeroes(offset, count * 512);
    else {
      const data = Buffer.alloc(count * 512);
      for (let at = 0; at < data.length; at += 512) data.writeUInt32LE(stamp, at);
      await device.write(offset, data);
    }
  }

  async #flush(machine: Machine): Promise<void> {
    const written = machine.states.length - 1;
    await machine.device.flush();
    machine.flushed = Math.max(machine.flushed, written);
    if (this.#settings.flush === "remote") machine.least = Math.max(machine.least, written);
  }

  #store(): RetryingStore {
    const transport = new SimulatedTransport(this.#bucket, {
      environment: this.#environment,
      latency: 40,
      refused: 0.05,
      lostAnswer: 0.08,
      landsLate: 0.08,
      late: 3000,
    });
    const policy = { attempts: 4, delay: 20, longestDelay: 100, smallTimeout: 60, largeTimeout: 60 };
    return new RetryingStore(transport, { environment: this.#environment, policy });
  }

  async #untilTaken(work: (archive: Archive) => Promise<void>): Promise<void> {
    await this.#retried(() => work(new Archive(this.#store(), DISK, { codec: "none" })));
  }

  /** As who runs a command again that could not reach the store. */
  async #retried<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof BlockIoError) || !["EBUSY", "ETIMEDOUT", "ENOTCONN"].includes(error.code))
          throw error;
      }
    }
  }

  #pause(milliseconds: number): Promise<void> {
    return new Promise((resolve) => void this.#clock.after(milliseconds, resolve));
  }
}

class Violation extends Error {}

function copyOf(device: BlockDevice): BlockDevice {
  const bytes = Buffer.alloc(device.size);
  void device.read(0, bytes);
  const copy = new MemoryDevice(device.size, { name: device.name });
  void copy.write(0, bytes);
  return copy;
}

async function contentsOf(device: BlockDevice): Promise<Uint32Array> {
  const bytes = Buffer.alloc(SIZE);
  await device.read(0, bytes);
  return Uint32Array.from({ length: SECTORS }, (_, sector) => bytes.readUInt32LE(sector * 512));
}

function judge(found: Uint32Array, { states }: Machine, least: number): number {
  const at = states.findLastIndex((state) => state.every((stamp, sector) => stamp === found[sector]));
  if (at < 0) throw new Violation("the disk is in no state it was ever in");
  if (at < least) throw new Violation(`the disk is as after write ${at}, and ${least} were safe`);
  return at;
}
