/** The RAM disk under the simulation: nothing survives, so what is looked for is wrong answers and hangs. */
import { type BlockDevice, type Environment, parseOptions } from "@dmkit/block-io";
import type { SimTarget } from "@dmkit/block-io/testing";
import { createCompressor } from "@dmkit/compressor";
import { type ZramDevice, openZram, zramOptions } from "../index.ts";

// Loading a library takes real turns of the event loop: done here, so that opening takes none.
for (const name of ["lz4", "lzo", "deflate"]) await (await createCompressor(name)).close();

interface Knobs {
  readonly size: number;
  readonly options: Readonly<Record<string, unknown>>;
}

/** Opens a disk of `size` bytes. */
export function open(
  size: number,
  values: Readonly<Record<string, unknown>>,
  environment: Environment,
  backing?: BlockDevice,
): Promise<ZramDevice> {
  const options = parseOptions(zramOptions, { ...values, ...(backing && { backing_dev: "backing" }) });
  return openZram(options, { name: "zram", size, environment, lower: async () => backing as BlockDevice });
}

/** Requests, with pages going to the backing disk and coming back between them. */
export const zramWithBacking: SimTarget<Knobs> = {
  name: "zram",
  summary: "pages in RAM and on a backing disk that fails now and then",
  geometry: (random) => ({
    disks: [{ name: "backing", size: 4096 * (1 + random.below(40)), fill: "noise" }],
    knobs: {
      size: 512 * (64 + random.below(400)),
      options: { comp_algorithm: random.pick(["lz4", "lzo"]), recomp_algorithm: "deflate" },
    },
  }),
  async open([backing], environment, { size, options }) {
    const device = await open(size, options, environment, backing);
    const again = (): void => {
      environment.clock.after(1, () => {
        if (device.failure !== undefined) return;
        // What cannot be moved stays where it is.
        device.message(["writeback", "huge"]).catch(() => {});
        device.message(["recompress", "all"]).catch(() => {});
        device.message(["compact"]).catch(() => {});
        if (rounds-- > 0) again();
      });
    };
    let rounds = 20;
    again();
    return device;
  },
  survives: "none",
};

export const simTargets: readonly SimTarget[] = [zramWithBacking];
