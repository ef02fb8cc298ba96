/**
 * Tracked devices as simulation targets. Epochs are begun, merged and dropped at flushes; whenever the device is opened
 * again, the oracle of epochs looks at every bit.
 */
import { type BlockDevice, SECTOR, isOfPlace } from "@dmkit/block-io";
import { type Prng, type RuledTarget, type SimTarget, ruled } from "@dmkit/block-io/testing";
import { type TrackedRules, trackedRules } from "../core/rules.ts";
import { TrackedDevice } from "../device/device.ts";
import { bitmapDeviceSize, slotStart } from "../format/geometry.ts";
import { createBitmaps } from "../open/create.ts";
import { openTracked } from "../open/open.ts";
import { EpochOracle } from "./epoch-oracle.ts";

interface TrackedKnobs {
  /** Bytes. */
  readonly size: number;
  readonly chunk: number;
  readonly slots: number;
  readonly ahead: number;
  /** Flushes between two messages. */
  readonly every: number;
  /** A page is damaged before the device is opened. */
  readonly damages: boolean;
  /** What is done next, and how many epochs there have been. */
  readonly story: { step: number; epochs: number };
  readonly oracle: EpochOracle;
}

export type TrackedTarget = SimTarget<TrackedKnobs>;
export type RuledTracked = RuledTarget<TrackedKnobs, TrackedRules>;

/** Begins, merges and drops an epoch at every so many flushes. */
class Messaged extends TrackedDevice {
  data: BlockDevice | undefined;
  knobs: TrackedKnobs | undefined;
  #flushes = 0;
  #busy = false;

  override async flush(): Promise<void> {
    this.#flushes += 1;
    if (!this.#busy && this.knobs !== undefined && this.#flushes % this.knobs.every === 0) {
      this.#busy = true;
      try {
        await this.#message(this.knobs);
      } finally {
        this.#busy = false;
      }
    }
    await super.flush();
  }

  async #message({ oracle, story, slots }: TrackedKnobs): Promise<void> {
    const [first, second] = oracle.names;
    // A beginning that was not answered stays so: it would have to be tried again, under the same name.
    const isInDoubt = this.epochs.some(({ name }) => !oracle.names.includes(name));
    story.step += 1;
    if (second !== undefined && story.step % 4 !== 0) return oracle.merge(this, first as string, second);
    if (first !== undefined && story.step % 4 === 0) return oracle.drop(this, first);
    if (isInDoubt || this.epochs.length >= slots) return;
    story.epochs += 1;
    return oracle.begin(this, `e${story.epochs}`, this.data as BlockDevice);
  }
}

function knobsOf(random: Prng, damages: boolean): TrackedKnobs {
  const chunk = random.pick([4096, 4096, 8192]);
  return {
    size: chunk * random.pick([3, 17, 24, 40]) - random.pick([0, SECTOR, 2048]),
    chunk,
    slots: random.pick([2, 3]),
    ahead: random.pick([0, 1, 4]),
    every: random.between(1, 2),
    damages,
    story: { step: random.below(3), epochs: 0 },
    oracle: new EpochOracle(chunk),
  };
}

/** Something overwrites a page that holds bits, or holds nothing. */
async function damage(bitmap: BlockDevice, { story, slots, ...rest }: TrackedKnobs): Promise<void> {
  const geometry = { ...rest, slots };
  story.step += 1;
  const offset = slotStart(geometry, story.step % slots);
  const sector = Buffer.alloc(SECTOR);
  await bitmap.read(offset, sector);
  // Bits that were set are not: with the checksum as it was.
  if (story.step % 3 === 0) sector.fill(0);
  else sector.fill(0, 32);
  await bitmap.write(offset, sector);
}

function target(name: string, summary: string, damages: boolean): RuledTracked {
  return ruled(trackedRules, (rules) => ({
    name,
    summary,
    // It goes on from bits that it has read, and has not written.
    kills: 0.2,
    geometry(random) {
      const knobs = knobsOf(random, damages);
      return {
        disks: [
          { name: "data", size: knobs.size, fill: "zero" },
          { name: "bitmap", size: bitmapDeviceSize(knobs) },
        ],
        knobs,
      };
    },
    async create([, bitmap], { random }, knobs) {
      await createBitmaps(bitmap as BlockDevice, { geometry: knobs, random });
    },
    async open(disks, environment, knobs) {
      const [data, bitmap] = disks as [BlockDevice, BlockDevice];
      if (damages) await damage(bitmap, knobs);
      const make = (parts: ConstructorParameters<typeof TrackedDevice>[0]): TrackedDevice =>
        new Messaged(parts);
      const device = (await openTracked(
        data,
        bitmap,
        { environment, ahead: knobs.ahead, make },
        rules,
      )) as Messaged;
      const problems = await knobs.oracle.problems(device, data).catch((error: unknown) => {
        if (isOfPlace(error)) return [];
        throw error;
      });
      // No error of a device: whatever excuses those does not excuse this.
      if (problems.length > 0) throw new Error(problems.join("; "));
      device.data = data;
      device.knobs = knobs;
      return device;
    },
  }));
}

export const trackedTarget: RuledTracked = target("tracked", "a device with up to three epochs", false);
export const damagedTarget: RuledTracked = target(
  "tracked-damaged",
  "the same, with pages of the bitmaps damaged while it is closed",
  true,
);

export const simTargets: readonly RuledTracked[] = [trackedTarget, damagedTarget];
