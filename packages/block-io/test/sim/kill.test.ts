/** The real-process tier without processes: it accepts a server that keeps its promises, and no other. */
import { describe, expect, it } from "vitest";
import { BlockIoError, GuardedDevice, plainLimits } from "../../src/index.ts";
import { type ServedDevice, killRounds } from "../../src/testing/index.ts";

const SIZE = 64 * 512;

/** Storage that outlives its servers. */
class Storage {
  readonly stable = Buffer.alloc(SIZE);
  keepsFlushed = true;
  keepsTerminated = true;

  serve(): ServedDevice {
    const device = new Volatile(this);
    return {
      device,
      kill: async () => {
        device.dead = true;
      },
      terminate: async () => {
        if (this.keepsTerminated) device.current.copy(this.stable);
        device.dead = true;
      },
    };
  }
}

/** A server's memory: lost when it is killed. */
class Volatile extends GuardedDevice {
  readonly current: Buffer;
  readonly #storage: Storage;
  dead = false;

  constructor(storage: Storage) {
    super("volatile", SIZE, plainLimits);
    this.#storage = storage;
    this.current = Buffer.from(storage.stable);
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    await this.#turn();
    this.current.copy(into, 0, offset, offset + into.length);
  }

  protected override async doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    await this.#turn();
    from.copy(this.current, offset);
    if (fua) await this.doFlush();
  }

  protected override async doFlush(): Promise<void> {
    await this.#turn();
    if (this.#storage.keepsFlushed) this.current.copy(this.#storage.stable);
  }

  async #turn(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    if (this.dead) throw new BlockIoError("the server is gone", { code: "ENOTCONN" });
  }
}

describe("rounds of SIGKILL", () => {
  const run = (storage: Storage): ReturnType<typeof killRounds> =>
    killRounds({ start: async () => storage.serve(), rounds: 40, seed: 3 });

  it("accept a server that keeps what it promised", async () => {
    const summary = await run(new Storage());
    expect(summary.violations).toEqual([]);
    expect(summary.rounds).toBe(40);
    expect(summary.graceful).toBeGreaterThan(0);
    expect(summary.graceful).toBeLessThan(40);
    expect(summary.interrupted).toBeGreaterThan(0);
  });

  it("find a flush that does nothing", async () => {
    const storage = new Storage();
    storage.keepsFlushed = false;
    const { violations } = await run(storage);
    expect(violations[0]?.rule).toBe("illegal");
  });

  it("find a server that ends without storing what it holds", async () => {
    const storage = new Storage();
    storage.keepsTerminated = false;
    const { violations } = await run(storage);
    expect(violations[0]?.rule).toBe("illegal");
  });
});
