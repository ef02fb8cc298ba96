/**
 * Client and server under the simulation: a simulated disk behind the server, the client in front, and a real
 * socket between them. Crashes, faults and the order of the disk's answers come from the seed; the socket does
 * not, so a run is not repeated to the last step, and hashes are not compared.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BlockDevice, LinearDevice } from "@dmkit/block-io";
import { type SimTarget, onDisks, runSim } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { NbdServer, openNbd } from "../src/index.ts";

interface Knobs {
  readonly folder: string;
  readonly connections: number;
  /** What an earlier generation has left running. */
  readonly running: { server?: NbdServer; device?: BlockDevice };
}

const pair: SimTarget<Knobs> = {
  name: "nbd",
  summary: "client and server over a unix socket",
  real: true,
  geometry: (random) => ({
    disks: [
      {
        name: "disk",
        size: random.pick([64, 256]) * 512,
        discard: random.pick(["none", "zeroes", "either"] as const),
      },
    ],
    knobs: {
      folder: mkdtempSync(join(tmpdir(), "dmkit-nbd-sim-")),
      connections: random.pick([1, 1, 2]),
      running: {},
    },
  }),
  async open([disk], _env, knobs) {
    await stop(knobs);
    const server = new NbdServer();
    server.addExport({ name: "", device: disk as BlockDevice });
    const path = join(knobs.folder, "s");
    await server.listen({ path });
    knobs.running.server = server;
    const uri = `nbd+unix:///?socket=${path}`;
    const device = await openNbd(uri, { reconnect: "off", connections: knobs.connections });
    knobs.running.device = device;
    return device;
  },
  async dispose(knobs) {
    await stop(knobs);
    rmSync(knobs.folder, { recursive: true });
  },
};

/** Ends what a crash has left: the server's connections first, or the client would wait for answers. */
async function stop({ running }: Knobs): Promise<void> {
  const { server, device } = running;
  running.server = undefined as never;
  running.device = undefined as never;
  await server?.close({ timeout: 1 });
  await device?.close().catch(() => {});
}

describe("under the simulation", () => {
  it("nothing acknowledged is lost between client and disk", async () => {
    const { failures, cycles } = await runSim(pair, { seeds: 60 });
    expect(failures).toEqual([]);
    expect(cycles).toBeGreaterThan(100);
  }, 120_000);

  it("a server that does not pass flushes on is found", async () => {
    class Unflushed extends LinearDevice {
      protected override doFlush(): Promise<void> {
        return Promise.resolve();
      }
    }
    const broken = onDisks(pair, "no-flush", (disk) => new Unflushed(disk, 0, disk.size));
    const { failures } = await runSim(broken, { seeds: 100, faults: "none" });
    expect(failures[0]?.violations[0]?.rule).toBe("illegal");
  }, 120_000);
});
