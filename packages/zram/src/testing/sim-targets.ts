/** The RAM disk under the simulation: wrong answers, hangs, and whether its books are kept. */
import { createHash } from "node:crypto";
import { type BlockDevice, type Environment, parseOptions } from "@dmkit/block-io";
import { type Prng, type RuledTarget, type SimTarget, ruled } from "@dmkit/block-io/testing";
import { createCompressor } from "@dmkit/compressor";
import { type ZramRules, zramRules } from "../core/rules.ts";
import { PAGE } from "../core/size-classes.ts";
import { type ZramDevice, openZram, zramOptions } from "../index.ts";
import { snapshotRoom } from "../device/snapshot/place.ts";
import { audit } from "./audit.ts";

// Loading a library takes real turns of the event loop: done here, so that opening takes none.
for (const name of ["lz4", "lzo", "deflate", "zstd"]) await (await createCompressor(name)).close();

interface Knobs {
  readonly size: number;
  readonly options: Readonly<Record<string, unknown>>;
  /** Which pages go to the backing device. */
  readonly writeback: "huge" | "all";
}

/** The devices that options name, and other rules than ours. */
export interface Others {
  readonly backing?: BlockDevice | undefined;
  readonly snapshot?: BlockDevice | undefined;
  readonly rules?: ZramRules;
}

/** Files take real turns, too: a path stands for itself, again and again. */
async function readDictionary(path: string): Promise<{ readonly bytes: Buffer; readonly hash: Buffer }> {
  const bytes = Buffer.alloc(4096, `${path} 0123456789 `);
  return { bytes, hash: createHash("sha256").update(bytes).digest() };
}

/** Opens a disk of `size` bytes. */
export function open(
  size: number,
  values: Readonly<Record<string, unknown>>,
  environment: Environment,
  { backing, snapshot, rules }: Others = {},
): Promise<ZramDevice> {
  const options = parseOptions(zramOptions, {
    ...values,
    ...(backing && { backing_dev: "backing" }),
    ...(snapshot && { snapshot: "snapshot" }),
  });
  const lower = async (name: string): Promise<BlockDevice> =>
    (name === "backing" ? backing : snapshot) as BlockDevice;
  return openZram(options, { name: "zram", size, environment, lower }, rules, readDictionary);
}

/** Sends messages between the requests, again and again, and looks through the books between them. */
function restless(device: ZramDevice, environment: Environment, { writeback }: Knobs): ZramDevice {
  const { clock } = environment;
  const messages = [
    ["writeback", writeback],
    // Where there is none of that priority it is refused.
    ["recompress", "priority=2", "max_pages=5"],
    ["recompress", "all"],
    ["compact"],
  ];
  let rounds = 20;
  const begin = (): void => void clock.after(1, () => void round());
  const round = async (): Promise<void> => {
    if (device.failure !== undefined) return;
    // All at a time, in each other's way. What cannot be moved stays where it is.
    await Promise.allSettled(messages.map((words) => device.message(words)));
    clock.after(0, () => {
      // The simulation reports what a timer throws.
      for (const wrong of audit(device)) throw new Error(wrong);
      if (rounds-- > 0) begin();
    });
  };
  begin();
  return device;
}

function draw(random: Prng): Knobs {
  const limited = random.chance(0.3);
  const comp_algorithm = random.pick(["lz4", "lzo"]);
  return {
    writeback: random.pick(["huge", "all"]),
    size: 512 * (64 + random.below(400)),
    options: {
      comp_algorithm,
      recomp_algorithm: "deflate",
      // Of those that have any.
      ...(random.chance(0.4) && comp_algorithm === "lz4" && { comp_dict: "dictionary" }),
      ...(random.chance(0.3) && { recomp_dict: "dictionary" }),
      ...(random.chance(0.5) && {
        recomp_algorithm2: "zstd",
        recomp_algorithm3: "deflate",
        recomp_level3: 9,
      }),
      compressed_writeback: random.chance(0.5),
      force: true,
      ...(limited && { mem_limit: 65_536 * (2 + random.below(4)) }),
    },
  };
}

/** Requests, with pages going to the backing disk and coming back between them. */
export const zramWithBacking: SimTarget<Knobs> = {
  name: "zram",
  summary: "pages in RAM and on a backing disk that fails now and then",
  geometry: (random) => ({
    disks: [{ name: "backing", size: PAGE * (2 + random.below(40)), fill: "noise" }],
    knobs: draw(random),
  }),
  open: async ([backing], environment, knobs) =>
    restless(await open(knobs.size, knobs.options, environment, { backing }), environment, knobs),
  mayFail: ["ENOSPC"],
  survives: "none",
};

/** What was there at close is there again. */
export const zramWithSnapshot: RuledTarget<Knobs, ZramRules> = ruled(zramRules, (rules) => ({
  name: "zram:snapshot",
  summary: "contents saved at close and restored at open",
  geometry(random) {
    const made = draw(random);
    return {
      disks: [
        { name: "snapshot", size: 2 * snapshotRoom(Math.ceil(made.size / PAGE)) },
        { name: "backing", size: PAGE * (2 + random.below(40)), fill: "noise" },
      ],
      knobs: made,
    };
  },
  open: async ([snapshot, backing], environment, knobs) =>
    restless(
      await open(knobs.size, knobs.options, environment, { snapshot, backing, rules }),
      environment,
      knobs,
    ),
  mayFail: ["ENOSPC"],
  survives: "close",
  // These have runs of their own, below.
  excludes: ["read-error", "write-error", "flush-error", "flush-lossy", "enospc", "short", "hang"],
}));

/** What was there at the last close that came to its end, where others fail. */
export const zramWithFaults: SimTarget<Knobs> = {
  ...zramWithSnapshot,
  name: "zram:snapshot-faults",
  summary: "contents saved at close, on disks that fail meanwhile",
  // A page that the backing device did not give at a close is lost, and says so ever after.
  mayFail: ["ENOSPC", "EIO"],
  excludes: [],
};

export const simTargets: readonly SimTarget<Knobs>[] = [zramWithBacking, zramWithSnapshot, zramWithFaults];
