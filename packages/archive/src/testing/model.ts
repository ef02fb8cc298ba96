/**
 * Model check of the takeover: writers that replace each other, checkpoints and collections, on a bucket whose requests
 * are refused, lose their answers, or land long after they were given up. It drives the protocol itself, on the simulated
 * store; only the contents are a number, and images are lists of them.
 *
 * What must hold, whatever the order of things:
 *
 * - what a taker finds is what all epochs before its own hold in the end: nothing is added there any more;
 * - every number that was acknowledged is there in the end, once, in the order of the acknowledgements of its writer.
 */
import { type Environment, codeOf } from "@dmkit/block-io";
import { ManualClock, SeededRandom, manualEnvironment } from "@dmkit/block-io/testing";
import { RetryingStore } from "@dmkit/object-store";
import { SimulatedBucket, SimulatedTransport } from "@dmkit/object-store/testing";
import { type Rules, rules as ours } from "../core/rules.ts";
import { Archive, type Walk } from "../device/archive.ts";
import { LogWriter } from "../device/log-writer.ts";
import { diskKey } from "../format/keys.ts";
import type { LogSegment } from "../format/log-object.ts";
import { NOBODY, encodeDisk } from "../format/records.ts";
import { createCheckpoint } from "../offline/checkpoint.ts";
import { collectLog } from "../offline/collect.ts";
import { claim, randomToken } from "../open/claim.ts";

/** How a schedule differs from an honest one. */
export interface ModelSettings {
  readonly rules?: Partial<Rules>;
  readonly ignoresConditions?: boolean;
}

/** What came of one schedule. */
export interface Outcome {
  readonly takeovers: number;
  readonly acknowledged: number;
  readonly replaced: number;
  /** What did not hold, if anything. */
  readonly violation: string | undefined;
}

const DISK = "disk";
const WRITERS = 4;
// Milliseconds that a schedule lasts, and what comes of it is left to land.
const LENGTH = 2500;
const QUIET = 60_000;

export async function runSchedule(seed: number, settings: ModelSettings = {}): Promise<Outcome> {
  return await new Schedule(seed, settings).run();
}

class Schedule {
  readonly #clock = new ManualClock();
  readonly #random: SeededRandom;
  readonly #environment: Environment;
  readonly #bucket = new SimulatedBucket();
  readonly #settings: ModelSettings;
  /** Contents of the images of checkpoints. */
  readonly #images = new Map<string, readonly number[]>([[NOBODY + NOBODY, []]]);
  /** By epoch: what its taker found, and what it was told is in the archive. */
  readonly #taken = new Map<
    number,
    { readonly before: readonly number[]; readonly acknowledged: number[] }
  >();
  #next = 1;
  #replaced = 0;

  constructor(seed: number, settings: ModelSettings) {
    this.#settings = settings;
    this.#random = new SeededRandom(seed);
    this.#environment = { ...manualEnvironment(seed, this.#clock), random: this.#random };
  }

  async run(): Promise<Outcome> {
    const record = encodeDisk({ token: NOBODY, size: 512, time: 0, base: NOBODY + NOBODY });
    this.#bucket.objects.set(diskKey(DISK), record);
    const failures: string[] = [];
    const all = [...Array.from({ length: WRITERS }, () => this.#writer()), this.#keeper()].map((one) =>
      one.catch((error: unknown) => failures.push(String(error))),
    );
    let over = false;
    void Promise.all(all).then(() => (over = true));
    await this.#clock.passUntil(() => over, LENGTH + 10 * QUIET);
    if (!over) failures.push("a part of the schedule does not end");
    await this.#clock.passUntil(() => false, this.#clock.now() + QUIET);
    const violation = failures[0] ?? (await this.#judge());
    let acknowledged = 0;
    for (const one of this.#taken.values()) acknowledged += one.acknowledged.length;
    return { takeovers: this.#taken.size, acknowledged, replaced: this.#replaced, violation };
  }

  /** Takes the disk over, writes, and is gone; again and again. */
  async #writer(): Promise<void> {
    await this.#sleep(LENGTH / 2);
    while (this.#clock.now() < LENGTH) {
      const archive = this.#archive();
      try {
        await this.#life(archive);
      } catch (error) {
        // Replaced, or the store could not be reached for long: as a process ends.
        if (codeOf(error) === "ESHUTDOWN") this.#replaced += 1;
        else if (!["EBUSY", "ETIMEDOUT", "ENOTCONN"].includes(codeOf(error))) throw error;
      }
      await this.#sleep(LENGTH / 4);
    }
  }

  async #life(archive: Archive): Promise<void> {
    const token = randomToken(this.#environment);
    const { epoch, nonce, before } = await claim(archive, {
      token,
      host: "model",
      environment: this.#environment,
    });
    const acknowledged: number[] = [];
    const found = await this.#valuesOf(archive, before, epoch - 1);
    this.#taken.set(epoch, { before: found, acknowledged });
    const writer = new LogWriter(archive, { epoch, nonce, token, id: before.end.id }, this.#environment);
    for (let local = 1, writes = this.#random.below(8); writes > 0; writes -= 1) {
      const values = Array.from({ length: 1 + this.#random.below(2) }, () => this.#next++);
      const writing = writer.write(local, values.map(segmentOf));
      // Some are gone while a write of theirs is under way.
      if (this.#random.next() < 0.1) {
        await Promise.race([writing.catch(() => {}), this.#sleep(100)]);
        writer.close();
      }
      await writing;
      acknowledged.push(...values);
      local += values.length;
      if (this.#random.next() < 0.5) await this.#sleep(1000);
    }
    writer.close();
  }

  /** Makes checkpoints and collects. */
  async #keeper(): Promise<void> {
    const archive = this.#archive();
    while (this.#clock.now() < LENGTH) {
      await this.#sleep(LENGTH / 4);
      try {
        const newest = await archive.newestEpoch();
        const walk = await archive.walk(newest?.number ?? 0);
        if (walk.objects.length > 0) {
          const values = await this.#valuesOf(archive, walk, newest?.number ?? 0);
          const digest = randomToken(this.#environment) + randomToken(this.#environment);
          this.#images.set(digest, values);
          await createCheckpoint(archive, { ...walk.end, digest });
        }
        await collectLog(archive);
      } catch (error) {
        if (!["EBUSY", "ETIMEDOUT", "ENOTCONN"].includes(codeOf(error))) throw error;
      }
    }
  }

  /** What a walk has found, as numbers. Whoever made a checkpoint meanwhile has collected it: then from there. */
  async #valuesOf(archive: Archive, walk: Walk, until: number): Promise<number[]> {
    for (let found = walk; ; found = await archive.walk(until)) {
      const values = [...(this.#images.get(found.checkpoint.digest) as readonly number[])];
      try {
        let { id } = found.checkpoint;
        for (const position of found.objects) {
          const { contents, id: first } = await archive.object(position);
          if (first !== id + 1) throw new Error(`segment ${first} follows ${id}`);
          id += contents.length;
          values.push(...contents.map(({ time }) => time));
        }
        return values;
      } catch (error) {
        if (codeOf(error) !== "ENOENT") throw error;
      }
    }
  }

  /** When all has landed that ever will. */
  async #judge(): Promise<string | undefined> {
    const archive = this.#archive(false);
    let over = false;
    let result: string | undefined;
    const judging = (async () => {
      const { epoch, before } = await claim(archive, {
        token: NOBODY,
        host: "judge",
        environment: this.#environment,
      });
      result = this.#compare(await this.#valuesOf(archive, before, epoch - 1));
    })().then(
      () => (over = true),
      (error: unknown) => {
        result = `the last taker: ${String(error)}`;
        over = true;
      },
    );
    await this.#clock.passUntil(() => over, this.#clock.now() + QUIET);
    await judging;
    return result;
  }

  #compare(last: readonly number[]): string | undefined {
    if (new Set(last).size !== last.length) return "something is there twice";
    for (const [epoch, { before, acknowledged }] of this.#taken) {
      if (before.some((value, index) => last[index] !== value))
        return `epoch ${epoch} began with what is not so in the end`;
      const behind = last.slice(before.length, before.length + acknowledged.length);
      if (acknowledged.some((value, index) => behind[index] !== value))
        return `epoch ${epoch}: ${acknowledged.join(" ")} were acknowledged, ${behind.join(" ")} are there`;
    }
    return undefined;
  }

  #archive(faulty = true): Archive {
    const { ignoresConditions = false, rules = {} } = this.#settings;
    const faults = faulty ? { refused: 0.05, lostAnswer: 0.08, landsLate: 0.08, late: 5000 } : {};
    const transport = new SimulatedTransport(this.#bucket, {
      environment: this.#environment,
      latency: 40,
      ...faults,
      ignoresConditions: ignoresConditions,
    });
    const policy = { attempts: 3, delay: 50, longestDelay: 200, smallTimeout: 60, largeTimeout: 60 };
    const store = new RetryingStore(transport, { environment: this.#environment, policy });
    return new Archive(store, DISK, { rules: { ...ours, ...rules }, codec: "none" });
  }

  #sleep(most: number): Promise<void> {
    return new Promise((resolve) => void this.#clock.after(this.#random.next() * most, resolve));
  }
}

function segmentOf(value: number): LogSegment {
  return { time: value, sectors: [], bits: [], data: Buffer.alloc(0) };
}
