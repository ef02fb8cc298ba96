/** Devices that break one rule of the contract each, on one disk: what the harness must find. */
import { type BlockDevice, GuardedDevice, plainLimits, withCapabilities } from "../../src/index.ts";
import type { SimTarget } from "../../src/testing/index.ts";

/** Hands everything on to its disk; the broken ones override one thing. */
export class PassThrough extends GuardedDevice {
  protected readonly disk: BlockDevice;

  constructor(disk: BlockDevice) {
    super("pass-through", disk.size, withCapabilities(plainLimits, { fua: "native" }));
    this.disk = disk;
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    return this.disk.read(offset, into);
  }

  protected override async doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    await this.disk.write(offset, from, { fua });
  }

  protected override doFlush(): Promise<void> {
    return this.disk.flush();
  }
}

/** The disk of a target that has one. */
export function only(disks: readonly BlockDevice[]): BlockDevice {
  const [disk] = disks;
  if (disk === undefined) throw new Error("there is no disk");
  return disk;
}

/** A target of 32 sectors. */
export function targetOf(
  name: string,
  open: (...args: Parameters<SimTarget["open"]>) => BlockDevice | Promise<BlockDevice>,
  more: Partial<SimTarget> = {},
): SimTarget {
  return {
    name,
    geometry: () => ({ disks: [{ name: "disk", size: 32 * 512 }], knobs: undefined }),
    open: async (...args) => open(...args),
    ...more,
  };
}

function passing(
  name: string,
  make: (disk: BlockDevice, ...rest: [Parameters<SimTarget["open"]>[1]]) => BlockDevice,
): SimTarget {
  return targetOf(name, (disks, env) => make(only(disks), env));
}

export const right: SimTarget = passing("right", (disk) => new PassThrough(disk));

/** Each with the rule the harness should name. */
export const broken: readonly (readonly [SimTarget, string])[] = [
  [
    passing("keeps-the-buffer", (disk) => {
      const late = new Map<number, Buffer>();
      return new (class extends PassThrough {
        // Writes with the next request what it should have copied.
        protected override async doWrite(offset: number, from: Buffer): Promise<void> {
          for (const [at, bytes] of late) await this.disk.write(at, bytes);
          late.clear();
          late.set(offset, from);
        }
      })(disk);
    }),
    "garbage",
  ],
  [
    passing(
      "changes-the-buffer",
      (disk) =>
        new (class extends PassThrough {
          protected override async doWrite(offset: number, from: Buffer): Promise<void> {
            await this.disk.write(offset, from);
            from[0] = 1 ^ (from[0] as number);
          }
        })(disk),
    ),
    "buffer",
  ],
  [
    passing(
      "reads-half",
      (disk) =>
        new (class extends PassThrough {
          protected override doRead(offset: number, into: Buffer): Promise<void> {
            return this.disk.read(offset, into.subarray(0, Math.max(512, into.length / 2)));
          }
        })(disk),
    ),
    "garbage",
  ],
  [
    passing(
      "leaves-a-sector-unread",
      (disk) =>
        new (class extends PassThrough {
          protected override async doRead(offset: number, into: Buffer): Promise<void> {
            if (into.length > 512) await this.disk.read(offset, into.subarray(512));
            else await this.disk.read(offset, into);
          }
        })(disk),
    ),
    "garbage",
  ],
  [
    passing(
      "off-by-one",
      (disk) =>
        new (class extends PassThrough {
          protected override doRead(offset: number, into: Buffer): Promise<void> {
            const room = this.size - into.length;
            return this.disk.read(offset === 4096 ? Math.min(room, offset + 512) : offset, into);
          }
        })(disk),
    ),
    "foreign",
  ],
  [
    passing(
      "tears-sectors",
      (disk) =>
        new (class extends PassThrough {
          #previous = Buffer.alloc(512);
          // The second half of a sector comes with the next write only.
          protected override async doWrite(offset: number, from: Buffer): Promise<void> {
            const torn = Buffer.from(from);
            this.#previous.copy(torn, 256, 256);
            this.#previous = Buffer.from(from.subarray(0, 512));
            await this.disk.write(offset, torn);
          }
        })(disk),
    ),
    "garbage",
  ],
  [
    passing(
      "acknowledges-early",
      (disk) =>
        new (class extends PassThrough {
          protected override async doWrite(offset: number, from: Buffer): Promise<void> {
            void this.disk.write(offset, Buffer.from(from)).catch(() => {});
          }
        })(disk),
    ),
    "illegal",
  ],
  [
    passing(
      "ignores-fua",
      (disk) =>
        new (class extends PassThrough {
          protected override doWrite(offset: number, from: Buffer): Promise<void> {
            return this.disk.write(offset, from);
          }
        })(disk),
    ),
    "illegal",
  ],
  [
    passing("flips", (disk) => {
      const old = new Map<number, Buffer>();
      let reads = 0;
      return new (class extends PassThrough {
        protected override async doWrite(offset: number, from: Buffer): Promise<void> {
          const before = Buffer.alloc(from.length);
          await this.disk.read(offset, before);
          await this.disk.write(offset, from);
          old.set(offset, before.subarray(0, 512));
        }
        // Every fifth read shows the version before.
        protected override async doRead(offset: number, into: Buffer): Promise<void> {
          await this.disk.read(offset, into);
          reads += 1;
          if (reads % 5 === 0) old.get(offset)?.copy(into);
        }
      })(disk);
    }),
    "illegal",
  ],
  [
    passing(
      "hangs",
      (disk) =>
        new (class extends PassThrough {
          protected override doFlush(): Promise<void> {
            return new Promise(() => {});
          }
        })(disk),
    ),
    "hang",
  ],
  [
    passing("spins", (disk, env) => {
      const spin = (): void => env.scheduler.defer(spin);
      return new (class extends PassThrough {
        protected override doFlush(): Promise<void> {
          spin();
          return new Promise(() => {});
        }
      })(disk);
    }),
    "hang",
  ],
  [
    passing("throws-in-a-timer", (disk, env) => {
      env.clock.after(1, () => {
        throw new Error("thrown by a timer");
      });
      return new PassThrough(disk);
    }),
    "escaped",
  ],
  [
    passing(
      "fails-for-nothing",
      (disk) =>
        new (class extends PassThrough {
          protected override doFlush(): Promise<void> {
            return Promise.reject(new Error("no reason"));
          }
        })(disk),
    ),
    "error",
  ],
  [
    targetOf("foreign-error", (disks) => {
      const device = new PassThrough(only(disks));
      device.flush = () => Promise.reject(new RangeError("not of our kind"));
      return device;
    }),
    "foreign-error",
  ],
  [
    targetOf("does-not-open-twice", async (disks) => {
      const device = only(disks);
      const mark = Buffer.alloc(512);
      await device.read(device.size - 512, mark);
      if (mark[0] === 0xee) throw new Error("it was opened before");
      await device.write(device.size - 512, Buffer.alloc(512, 0xee), { fua: true });
      return new (class extends PassThrough {
        protected override doRead(offset: number, into: Buffer): Promise<void> {
          into.fill(0);
          return offset < 0 ? Promise.resolve() : this.disk.read(0, Buffer.alloc(512));
        }
        protected override async doWrite(): Promise<void> {}
      })(device);
    }),
    "open",
  ],
  [
    targetOf("shrinks", (disks, env) => {
      const device = new PassThrough(only(disks));
      if (env.clock.now() === 0) return device;
      Object.defineProperty(device, "size", { value: 512 });
      return device;
    }),
    "open",
  ],
  [
    targetOf("fails-its-check", (disks) => new PassThrough(only(disks)), {
      check: async () => ["a block is missing"],
    }),
    "check",
  ],
  [
    targetOf("stays-dirty", (disks) => new PassThrough(only(disks)), {
      quiesce: async () => ["one block is dirty for ever"],
    }),
    "stuck",
  ],
  [
    targetOf("never-quiet", (disks) => new PassThrough(only(disks)), {
      quiesce: () => new Promise(() => {}),
    }),
    "stuck",
  ],
];
