/** The devices of this package as simulation targets. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SECTOR } from "../../contract/device.ts";
import { openFile } from "../../devices/file-open.ts";
import { MemoryDevice } from "../../devices/memory.ts";
import { FlakeyDevice } from "../../targets/flakey.ts";
import { LinearDevice } from "../../targets/linear.ts";
import { StripedDevice } from "../../targets/striped.ts";
import type { DiskSpec } from "./disk/disk.ts";
import type { Prng } from "./prng.ts";
import type { SimTarget } from "./target.ts";

const discards = ["none", "zeroes", "either"] as const;

function disk(random: Prng, name: string, sectors: number): DiskSpec {
  return { name, size: sectors * SECTOR, discard: random.pick(discards) };
}

const linear: SimTarget<{ offset: number; length: number }> = {
  name: "linear",
  summary: "a run of sectors of a disk",
  geometry: (random) => {
    const sectors = random.pick([16, 64, 256]);
    const offset = random.below(sectors / 2) * SECTOR;
    const length = sectors * SECTOR - offset - random.below(4) * SECTOR;
    return { disks: [disk(random, "disk", sectors)], knobs: { offset, length } };
  },
  open: async ([lower], _env, { offset, length }) =>
    new LinearDevice(lower as NonNullable<typeof lower>, offset, length),
};

const striped: SimTarget<{ chunk: number; stripes: number; rows: number }> = {
  name: "striped",
  summary: "chunks spread over several disks",
  geometry: (random) => {
    const knobs = {
      chunk: random.pick([1, 2, 3, 8]) * SECTOR,
      stripes: random.between(1, 4),
      rows: random.between(2, 8),
    };
    const sectors = (knobs.chunk / SECTOR) * knobs.rows;
    const spec = disk(random, "", sectors);
    const disks = Array.from({ length: knobs.stripes }, (_, index) => ({ ...spec, name: `disk${index}` }));
    return { disks, knobs };
  },
  open: async (disks, _env, { chunk, rows, stripes }) =>
    new StripedDevice(
      disks.map((device) => ({ device, offset: 0 })),
      chunk,
      chunk * rows * stripes,
    ),
};

const flakey: SimTarget<{ up: number; down: number; behaviour: "error_all" | "error_writes" }> = {
  name: "flakey",
  summary: "a device that refuses requests from time to time",
  geometry: (random) => ({
    disks: [disk(random, "disk", random.pick([16, 64]))],
    knobs: {
      up: random.between(1, 3),
      down: random.below(3),
      behaviour: random.pick(["error_all", "error_writes"] as const),
    },
  }),
  // Its own faults look like those of a disk: reported, and nothing is lost.
  mayFail: ["EIO"],
  // It comes up again after a failed flush, so it needs a disk that does not forget: contract rule 5.
  excludes: ["flush-lossy"],
  open: async ([lower], env, knobs) => {
    const device = lower as NonNullable<typeof lower>;
    return new FlakeyDevice(device, 0, device.size, knobs, env.clock);
  },
};

const memory: SimTarget<{ size: number; block: 512 | 4096 }> = {
  name: "memory",
  summary: "RAM: live reads only, nothing survives",
  survives: "none",
  geometry: (random) => ({
    disks: [],
    knobs: { size: random.pick([16, 256, 1024]) * 4096, block: random.pick([512, 4096] as const) },
  }),
  open: async (_disks, _env, { size, block }) => new MemoryDevice(size, { logicalBlockSize: block }),
};

const file: SimTarget<{ folder: string; size: number }> = {
  name: "file",
  summary: "a real file: live reads, close and open again; real I/O, so no crash of the disk below",
  survives: "close",
  real: true,
  geometry: (random) => ({
    disks: [],
    knobs: { folder: mkdtempSync(join(tmpdir(), "dmkit-sim-")), size: random.pick([8, 64, 1024]) * 512 },
  }),
  open: (_disks, environment, { folder, size }) =>
    openFile(join(folder, "image"), { createSize: size, environment }),
  dispose: ({ folder }) => rmSync(folder, { recursive: true }),
};

/** Everything in this package that stores something. */
export const blockIoTargets: readonly SimTarget[] = [linear, striped, flakey, memory, file];
