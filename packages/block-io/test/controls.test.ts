/** What a device can be told: the grammar, ranges and refusals that all targets share. */
import { describe, expect, it } from "vitest";
import {
  type AnyTarget,
  type Controls,
  GuardedTarget,
  MemoryDevice,
  type OpenContext,
  SECTOR,
  type TableArguments,
  TargetRegistry,
  endable,
  openTable,
  parseTable,
  plainLimits,
  realEnvironment,
  tunablesOf,
} from "../src/index.ts";

const options = {
  speed: { type: "integer", min: 1, max: 9, unit: "knots", default: 5, help: "how fast" },
  loud: { type: "flag", default: false, help: "how loud" },
  fresh: { type: "flag", default: false, once: true, help: "begins anew" },
} as const;

class Boat extends GuardedTarget {
  readonly calls: string[] = [];
  #values = { speed: 5, loud: false };
  waits: Promise<void> | undefined;

  constructor(size: number) {
    super("boat", size, plainLimits);
  }

  protected override async doRead(): Promise<void> {
    await this.waits;
  }

  protected override async doWrite(): Promise<void> {}
  protected override async doFlush(): Promise<void> {}

  protected override get controls(): Controls<Boat> {
    return boatControls;
  }

  protected override doFacts(): Readonly<Record<string, number>> {
    return { calls: this.calls.length };
  }

  protected override tunableValues(): Readonly<Record<string, unknown>> {
    return this.#values;
  }

  protected override doTune(changes: object): void {
    this.#values = { ...this.#values, ...changes };
  }
}

const boatControls: Controls<Boat> = {
  tunables: tunablesOf(options, ["speed", "loud"], { velocity: "speed" }),
  messages: {
    hoot: {
      arguments: "",
      help: "makes a noise",
      run: ({ calls }) => `hooted ${calls.push("hoot")} times`,
    },
    sail: endable(
      "sails on",
      ({ calls }, { signal }) =>
        new Promise((_resolve, reject) => {
          calls.push("sail");
          signal?.addEventListener("abort", () => reject(signal.reason as Error));
        }),
    ),
    steer: { arguments: "<course>", help: "turns", run: ({ calls }, args) => String(calls.push(...args)) },
    sink: {
      arguments: "",
      help: "goes down",
      destroys: true,
      run: ({ calls }, args) => `sunk ${calls.push(`sink ${args.join(" ")}`)}`,
    },
  },
};

const boat: AnyTarget = {
  name: "boat",
  version: [1, 0, 0],
  summary: "",
  synopsis: "",
  options,
  ...boatControls,
  parse: (args: TableArguments) => ({
    speed: args.remaining > 0 ? args.number("speed", options.speed) : 5,
    loud: args.remaining > 0 ? args.option("loud", options.loud) : false,
    fresh: args.remaining > 0 ? args.option("fresh", options.fresh) : false,
  }),
  print: (given) =>
    Object.values(given as object).map((value: unknown) =>
      String(value === true ? 1 : value === false ? 0 : value),
    ),
  open: async (_options, { size }: OpenContext) => new Boat(size),
};

const message = (device: Boat, line: string): Promise<string> => device.message(line.split(" "));

describe("messages", () => {
  it("set and read tunables, in any case, by any name, with or without a sector", async () => {
    const device = new Boat(8 * SECTOR);
    for (const [line, value] of [
      ["speed 3", "3"],
      ["set speed 4", "4"],
      ["SET SPEED 6", "6"],
      ["0 speed 7", "7"],
      ["@7 set speed 8", "8"],
      ["velocity 9", "9"],
    ] as const) {
      expect(await message(device, line)).toBe("");
      expect([line, await message(device, "speed")]).toEqual([line, value]);
    }
    await message(device, "loud 1");
    expect(await message(device, "loud")).toBe("1");
    expect(device.facts()).toEqual({ speed: 9, loud: 1, calls: 0, in_flight: 0, errors: 0 });
    expect(device.settings()).toEqual({ speed: 9, loud: true });
  });

  it("that take long are ended by a word, for all who wait at that device, and by their own signals", async () => {
    const [one, other] = [new Boat(8 * SECTOR), new Boat(8 * SECTOR)];
    await message(one, "sail stop");
    const own = new AbortController();
    const elsewhere = other.message(["sail"], { signal: own.signal });
    const all = [message(one, "sail"), message(one, "SAIL")].map((sailing) =>
      expect(sailing).rejects.toMatchObject({ code: "ESHUTDOWN", device: "boat", op: "message" }),
    );
    await expect(message(one, "sail stop now")).rejects.toMatchObject({ code: "EINVAL" });
    expect(await message(one, "sail STOP")).toBe("");
    await Promise.all(all);
    const over = new Error("nobody waits any more");
    own.abort(over);
    await expect(elsewhere).rejects.toBe(over);
    expect([one.calls, other.calls]).toEqual([["sail", "sail"], ["sail"]]);
  });

  it("are refused with the range, or with all that would be taken", async () => {
    const device = new Boat(8 * SECTOR);
    for (const line of ["speed 10", "set speed 0", "velocity x", "speed "]) {
      await expect(message(device, line), line).rejects.toMatchObject({
        code: "EINVAL",
        device: "boat",
        op: "message",
        hint: "speed takes 1 … 9 knots.",
      });
    }
    for (const line of [
      "",
      "0",
      "row",
      "set",
      "set speed",
      "set row 1",
      "speed 1 2",
      "hoot loudly",
      "8 hoot",
    ]) {
      await expect(message(device, line), line).rejects.toMatchObject({
        code: "EINVAL",
        reason: `unknown message "${line}"`,
        hint: "It takes set <tunable> <value> with one of: speed, loud, and the messages: hoot; sail [stop]; steer <course>; sink.",
      });
    }
    expect(device.calls).toEqual([]);
    const plain = new MemoryDevice(4096);
    expect("message" in plain).toBe(false);
    expect(await message(device, "Hoot")).toBe("hooted 1 times");
    expect(await message(device, "0 steer north east")).toBe("3");
  });

  it("that give up data are refused while the device is used, unless that is said", async () => {
    const device = new Boat(8 * SECTOR);
    const users = { users: ['export "a"', "device b"] };
    await expect(device.message(["sink"], users)).rejects.toMatchObject({
      code: "EBUSY",
      reason: 'sink gives up all contents, and the device is used by export "a", device b',
      hint: "Withdraw what uses it first, or say it: sink force",
    });
    let go!: () => void;
    device.waits = new Promise((resolve) => (go = resolve));
    const reading = device.read(0, Buffer.alloc(SECTOR));
    await expect(message(device, "sink")).rejects.toMatchObject({ code: "EBUSY" });
    expect(device.calls).toEqual([]);
    expect(await device.message(["sink", "force"], users)).toBe("sunk 1");
    go();
    await reading;
    expect(await message(device, "sink")).toBe("sunk 2");
    expect(device.calls).toEqual(["sink ", "sink "]);
  });
});

describe("a table", () => {
  const registry = new TargetRegistry([boat]);

  it("shows what was set, and no word that counts once", async () => {
    const device = await openTable(parseTable("0 8 boat 2 1 1\n8 8 boat", registry), {
      environment: realEnvironment,
    });
    expect(device.table).toBe("0 8 boat 5 0 0\n8 8 boat 5 0 0");
    await device.message(["@9", "speed", "7"]);
    await device.message(["0", "set", "loud", "1"]);
    expect(device.table).toBe("0 8 boat 5 1 0\n8 8 boat 7 0 0");
    await expect(device.message(["speed", "7"])).rejects.toMatchObject({ code: "EINVAL" });
    await expect(device.message(["99", "speed", "7"])).rejects.toMatchObject({ code: "EINVAL" });
    await device.close();
  });
});
