/**
 * Client and server under the simulation: a simulated disk behind the server, the client in front, and a real
 * socket between them. Crashes, faults and the order of the disk's answers come from the seed; the socket does
 * not, so a run is not repeated to the last step, and hashes are not compared.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LinearDevice } from "@dmkit/block-io";
import { type SimTarget, onDisks, runSim } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { NbdServer, openNbd } from "../src/index.ts";
import { runs, timeFor } from "./support/runs.ts";

interface Knobs {
  readonly folder: string;
  readonly connections: number;
  /** Ends what an earlier generation has left running. */
  readonly running: (() => Promise<void>)[];
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
      running: [],
    },
  }),
  async open([disk], _env, knobs) {
    await stop(knobs);
    if (disk === undefined) throw new Error("there is no disk");
    const server = new NbdServer();
    server.addExport({ name: "", device: disk });
    // The server's connections go first, or the client would wait for answers of a disk that is no more.
    knobs.running.push(() => server.close({ timeout: 1 }));
    sockets += 1;
    const path = join(knobs.folder, String(sockets));
    await server.listen({ path });
    const uri = `nbd+unix:///?socket=${path}`;
    const device = await openNbd(uri, { reconnect: "off", connections: knobs.connections });
    knobs.running.push(() => device.close().catch(() => {}));
    return device;
  },
  async dispose(knobs) {
    await stop(knobs);
    rmSync(knobs.folder, { recursive: true });
  },
};

let sockets = 0;

async function stop({ running }: Knobs): Promise<void> {
  for (const end of running.splice(0)) await end();
}

describe("under the simulation", () => {
  it(
    "nothing acknowledged is lost between client and disk",
    async () => {
      const { failures, cycles } = await runSim(pair, { seeds: runs(20) });
      expect(failures).toEqual([]);
      expect(cycles).toBeGreaterThan(runs(20));
    },
    timeFor(120_000),
  );

  it("a server that does not pass flushes on is found", async () => {
    class Unflushed extends LinearDevice {
      protected override doFlush(): Promise<void> {
        return Promise.resolve();
      }
    }
    const broken = onDisks(pair, "no-flush", (disk) => new Unflushed(disk, 0, disk.size));
    const { failures } = await runSim(broken, { seeds: 100, faults: "none" });
    expect(failures[0]?.violations[0]?.rule).toBe("illegal");
  });
});
