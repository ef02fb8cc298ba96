/** The conformance suite with quick and slow algorithms, and with all pages on a backing device. */
import { DelayDevice, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { BadSectors, conformance } from "@dmkit/block-io/testing";
import { describe, it } from "vitest";
import { ZramDevice } from "../src/index.ts";
import { snapshotRoom } from "../src/device/snapshot/place.ts";
import { open } from "../src/testing/sim-targets.ts";

const SIZE = 2 ** 20 + 512 * 3;
const framework = { describe, it };

for (const comp_algorithm of ["lz4", "lzo", "deflate", "zstd", "none"]) {
  conformance(
    `zram with ${comp_algorithm}`,
    async () => ({ device: await open(SIZE, { comp_algorithm }, realEnvironment) }),
    framework,
  );
}

/** Every write is followed by moving everything to the backing device. */
class Restless extends ZramDevice {
  protected override async doWrite(offset: number, from: Buffer): Promise<void> {
    await super.doWrite(offset, from);
    await this.message(["writeback", "all"]);
  }
}

conformance(
  "zram that keeps its pages elsewhere",
  async () => {
    const memory = new MemoryDevice(2 ** 21);
    const backing = new DelayDevice(
      memory,
      0,
      memory.size,
      { read: 0, write: 0, flush: 0 },
      realEnvironment.clock,
    );
    const { parts } = await open(SIZE, {}, realEnvironment, { backing });
    return { device: new Restless(parts) };
  },
  framework,
);

conformance(
  "zram with a snapshot",
  async () => {
    const snapshot = new BadSectors(2 * snapshotRoom(Math.ceil(SIZE / 4096)) + 2 ** 21);
    const reopen = () => open(SIZE, {}, realEnvironment, { snapshot });
    return { device: await reopen(), reopen, lower: [snapshot], survives: "close", closes: true };
  },
  framework,
);
