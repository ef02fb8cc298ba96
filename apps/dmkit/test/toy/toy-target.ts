/**
 * A target that nothing in the app has heard of: a stamp in the first sector, and behind it a device whose requests are
 * counted. It has everything a target can say of itself.
 *
 *      sector 0   "TOYSTAMP", then a number as text: how often it was formatted or restored
 *      sector 1 … the contents
 */
import {
  type BlockDevice,
  BlockIoError,
  type Controls,
  type DeviceUse,
  type Facts,
  type WatchedFacts,
  type ImageDevices,
  type ImageFormat,
  LinearDevice,
  type OptionsOf,
  SECTOR,
  type Target,
  parseOptions,
  printNamed,
  refuse,
  restOf,
  tunablesOf,
} from "@dmkit/block-io";

const MAGIC = "TOYSTAMP";

const options = {
  device: { type: "device", help: "the device below, which begins with a stamp" },
  limit: { type: "integer", min: 0, max: 100, default: 10, unit: "sectors", help: "what counts as small" },
  mood: { type: "choice", values: ["calm", "wild"], default: "calm", help: "wild needs a limit" },
} as const;

type ToyOptions = OptionsOf<typeof options>;

const named = ["limit", "mood"] as const;

class ToyDevice extends LinearDevice {
  #limit: number;
  #requests = 0;
  #small = 0;

  constructor(device: BlockDevice, size: number, limit: number, name: string) {
    super(device, SECTOR, size, name);
    this.#limit = limit;
  }

  override status(): string {
    return `${this.#small}/${this.#requests}`;
  }

  forget(): void {
    this.#requests = this.#small = 0;
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    this.#requests += 1;
    if (into.length <= this.#limit * SECTOR) this.#small += 1;
    return super.doRead(offset, into);
  }

  protected override doFacts(): Facts {
    return { requests: this.#requests, small: this.#small };
  }

  protected override watched(): WatchedFacts {
    return { hits: this.#small, misses: this.#requests - this.#small };
  }

  protected override get controls(): Controls<ToyDevice> {
    return controls;
  }

  protected override tunableValues(): Readonly<Record<string, unknown>> {
    return { limit: this.#limit };
  }

  protected override doTune({ limit }: Readonly<Record<string, unknown>>): void {
    this.#limit = limit as number;
  }
}

const controls: Controls<ToyDevice> = {
  tunables: tunablesOf(options, ["limit"]),
  messages: {
    forget: {
      arguments: "",
      help: "counts from nothing",
      run(device) {
        device.forget();
        return "";
      },
    },
  },
};

async function stampOf(device: BlockDevice | undefined): Promise<number> {
  const bytes = Buffer.alloc(SECTOR);
  if (device !== undefined && device.size > SECTOR) await device.read(0, bytes);
  const [, count] = /^TOYSTAMP(\d+)\0/.exec(bytes.toString("latin1")) ?? [];
  if (count !== undefined) return Number(count);
  throw refuse(device?.name, "EFORMAT", "has no stamp", "Make one with: dmkit format toy DEVICE");
}

async function stamp({ device }: ImageDevices, count: number): Promise<void> {
  const bytes = Buffer.alloc(SECTOR);
  bytes.write(`${MAGIC}${count}`);
  await device?.write(0, bytes);
  await device?.flush();
}

const image: ImageFormat = {
  name: "toy",
  summary: "a stamp and what is behind it",
  roles: [{ name: "device", required: true, help: "the stamped device" }],
  async detect(device) {
    const count = await stampOf(device).catch(() => undefined);
    return count === undefined ? undefined : { certainty: "magic", role: "device", text: `stamp ${count}` };
  },
  info: async ({ device }) => ({ stamp: await stampOf(device) }),
  async *check({ device }) {
    if ((await stampOf(device)) < 100) return;
    const where = { kind: "worn", role: "device", location: "stamp", offset: 0 };
    yield { ...where, severity: "error", text: "the stamp is worn", repair: "it begins again" };
  },
  async repair(devices, work) {
    const repaired = [];
    for await (const problem of image.check(devices, work)) repaired.push(problem);
    await stamp(devices, 0);
    return { repaired, left: [] };
  },
  dump: async ({ device }) => ({ stamp: await stampOf(device) }),
  restore: async (devices, dump) => stamp(devices, (dump as { stamp: number }).stamp),
  map: async ({ device }) => ({
    strips: [
      { title: "toy", size: device?.size ?? 0, ranges: [{ offset: 0, length: SECTOR, kind: "stamp" }] },
    ],
    legend: { stamp: { meaning: "stamp", character: "T", colour: "#7048e8", weight: 1 } },
  }),
  formatOptions: { stamp: { type: "integer", min: 0, max: 1000, default: 0, help: "the first stamp" } },
  format: async (devices, words) => stamp(devices, Number(words["stamp"] ?? 0)),
  replay: {
    to: "device",
    options: { marks: { type: "integer", min: 1, max: 9, optional: true, help: "how many" } },
    async run(devices, words) {
      await stamp(devices, Number(words["marks"]));
      return { facts: { marks: Number(words["marks"]) }, text: "marks" };
    },
  },
};

function useOf({ device }: ToyOptions, size: number): DeviceUse {
  return [device, "owns", { offset: 0, length: size + SECTOR }];
}

export const toy: Target<ToyOptions> = {
  name: "toy",
  version: [1, 0, 0],
  summary: "counts requests behind a stamp",
  synopsis: "<device> [<#words> (<key> <value>)…]",
  options,
  ...controls,
  image: () => Promise.resolve(image),
  stack: {
    defaults: () => ({ limit: 20 }),
    conflict: ({ mood, limit }) =>
      mood === "wild" && limit === 0 ? { option: "mood", what: "wild without a limit" } : undefined,
    length: ({ device }) => restOf(device, 1),
  },
  hintFor: ({ code }, { device }) =>
    code === "EFORMAT" ? `Stamp it first: dmkit format toy ${device}` : undefined,
  parse: (args) =>
    parseOptions(
      options,
      { device: args.text("device", options.device), ...args.counted("words").named(named, options) },
      "toy",
    ),
  print: (given) => [given.device, ...printNamed(named, options, given)],
  uses: (given, size) => [useOf(given, size)],
  async open(given, { name, size, lower }) {
    const device = await lower(...useOf(given, size));
    try {
      await stampOf(device);
    } catch {
      throw new BlockIoError("has no stamp", { code: "EFORMAT", device: device.name, op: "open" });
    }
    return new ToyDevice(device, size, given.limit, name);
  },
};
