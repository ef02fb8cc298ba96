/** Requests that go to a target past the table it is all of: the table does to them what it does to its own. */
import { describe, expect, it } from "vitest";
import {
  BlockIoError,
  type Environment,
  GuardedDevice,
  type TableDevice,
  TargetRegistry,
  basicTargets,
  done,
  openTable,
  parseTable,
  plainLimits,
  realEnvironment,
} from "../src/index.ts";
import { ManualClock } from "../src/testing/index.ts";

/** Keeps writes until it is told; a flush may fail. */
class Held extends GuardedDevice {
  readonly #waiting: (() => void)[] = [];
  flushes = 0;
  fails = false;

  constructor() {
    super("held", 1 << 20, plainLimits);
  }

  goOn(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }

  protected override doRead(): Promise<void> {
    return done;
  }

  protected override doWrite(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  protected override doFlush(): Promise<void> {
    this.flushes += 1;
    if (this.fails) throw new BlockIoError("broken", { code: "EIO", device: this.name, op: "flush" });
    return done;
  }
}

function open(text: string, disk: Held, environment: Environment = realEnvironment): Promise<TableDevice> {
  return openTable(parseTable(text, new TargetRegistry(basicTargets)), {
    name: "whole",
    environment,
    schemes: { held: () => Promise.resolve(disk) },
  });
}

const oneLine = "0 2048 linear held:0 0";

describe("a table of one line", () => {
  it.each(["suspend", "close"] as const)("%s waits for what was asked of its target", async (verb) => {
    const disk = new Held();
    const table = await open(oneLine, disk);
    expect(table.direct).not.toBe(table);
    const log: string[] = [];
    const writing = table.direct.write(0, Buffer.alloc(512)).then(() => log.push("written"));
    const ending = table[verb]().then(() => log.push(verb));
    await new Promise((resolve) => setImmediate(resolve));
    expect(log).toEqual([]);
    const before = disk.flushes;
    disk.goOn();
    await Promise.all([writing, ending]);
    expect(log).toEqual(["written", verb]);
    expect(disk.flushes, "what was answered is flushed").toBeGreaterThan(before);
    await table.close();
  });

  it("has failed once its target has", async () => {
    const disk = new Held();
    const table = await open(oneLine, disk);
    disk.fails = true;
    await expect(table.direct.flush()).rejects.toMatchObject({ code: "EIO" });
    expect(table.failure).toMatchObject({ code: "EIO" });
    expect(table.health().state).toBe("failed");
    await table.suspend();
    await table.close();
  });

  it("has not failed where its target goes on after a failed flush", async () => {
    const clock = new ManualClock();
    const table = await open("0 2048 flakey held:0 0 1 1 1 error_writes", new Held(), {
      ...realEnvironment,
      clock,
    });
    clock.advance(1500);
    await expect(table.suspend()).rejects.toMatchObject({ code: "EIO" });
    clock.advance(1000);
    await table.direct.flush();
    expect(table.failure).toBeUndefined();
    expect(table.health().state).toBe("ok");
    await table.close();
  });

  it("of several lines takes requests itself", async () => {
    const table = await open("0 8 linear held:0 0\n8 8 zero", new Held());
    expect(table.direct).toBe(table);
    await table.close();
  });
});
