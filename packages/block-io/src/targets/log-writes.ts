/**
 * `log-writes`: hands everything on to a device, and logs what was written, flushed and discarded, with the
 * data, to another one (format/write-log.ts). The log of a real run is replayed to every point at which power
 * might have failed, by the simulation's `replayWriteLog`.
 *
 * Invariants:
 *
 * - a request is answered only when its entry is in the log, and an entry is made only when the request below
 *   was answered: the log never claims what did not happen, and misses nothing that was acknowledged;
 * - entries are in the order of the answers below.
 */
import type { Facts } from "../contract/facts.ts";
import { type Controls, noControls } from "../dm/controls.ts";
import { type BlockDevice, SECTOR, type WriteZeroesOptions } from "../contract/device.ts";
import type { Environment } from "../contract/environment.ts";
import { BlockIoError, refuse } from "../contract/errors.ts";
import {
  MARK_LIMIT,
  type WriteLogEntry,
  encodeEntry,
  encodeSuperblock,
  isWriteLog,
  sectorsOfEntry,
} from "../format/write-log.ts";
import { requireBlank } from "../below/blank.ts";
import { join } from "../sync/join.ts";
import { zeroes } from "../bytes/zeroes.ts";
import type { DeviceUse } from "../below/claims.ts";
import { type OptionsOf, parseOptions } from "../dm/options.ts";
import { printNamed } from "../dm/arguments.ts";
import { restOf } from "../dm/stack-rules.ts";
import { type OpenContext, type Target, requireRoom } from "../dm/target.ts";
import { LinearDevice } from "./linear.ts";

export const logWritesOptions = {
  device: { type: "device", help: "the device below" },
  log: { type: "device", help: "where to log: a device of its own; a log that it held is overwritten" },
  force: {
    type: "flag",
    once: true,
    default: false,
    help: "log to a device that is not blank, and holds no log",
  },
} as const;

const namedOptions = ["force"] as const;

/** The device, and where its log goes. */
export type LogWritesOptions = OptionsOf<typeof logWritesOptions>;

// Zeroes are logged as data, in pieces the shared buffer of zeroes can provide.
const ZERO_PIECE = 1024 * 1024;

// Events of all log-writes devices of an environment are in one order.
const ticks = new WeakMap<Environment, { last: number }>();

/** Another device whose writes are logged, in an order that a crash could have left. */
export class LogWritesDevice extends LinearDevice {
  readonly #log: BlockDevice;
  readonly #ticks: { last: number };
  readonly #session: number;
  #entries = 0;
  #next = 1;

  private constructor(device: BlockDevice, log: BlockDevice, size: number, env: Environment, name: string) {
    super(device, 0, size, name);
    this.#log = log;
    let shared = ticks.get(env);
    if (shared === undefined) ticks.set(env, (shared = { last: 0 }));
    this.#ticks = shared;
    this.#session = Math.floor(env.random.next() * 2 ** 32);
  }

  /** Begins a new log. @param size bytes of `device` that are used. */
  static async open(
    device: BlockDevice,
    log: BlockDevice,
    size: number,
    env: Environment,
    name = "log-writes",
  ): Promise<LogWritesDevice> {
    const logging = new LogWritesDevice(device, log, size, env, name);
    await logging.#writeSuperblock();
    return logging;
  }

  /** As the kernel's: entries logged, and the last sector of the log in use. */
  override status(): string {
    return `${this.#entries} ${this.#next - 1}`;
  }

  protected override doFacts(): Facts {
    return { entries: this.#entries, last_sector: this.#next - 1 };
  }

  protected override get controls(): Controls<LogWritesDevice> {
    return logWritesControls;
  }

  /** Puts a mark into the log, of 1 to 448 bytes. */
  async mark(text: string): Promise<void> {
    const bytes = Buffer.byteLength(text);
    if (bytes === 0 || bytes > MARK_LIMIT) {
      throw new BlockIoError(`a mark has 1 to ${MARK_LIMIT} bytes, not ${bytes}`, {
        code: "EINVAL",
        device: this.name,
        op: "message",
        hint: "Send: mark <text>",
      });
    }
    await this.#append({ ...this.#begin("mark", 0, 0, false), text });
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    const entry = this.#begin("write", offset, from.length, fua);
    return this.#logged(entry, super.doWrite(offset, from, fua), from);
  }

  protected override async doFlush(): Promise<void> {
    await this.#logged(this.#begin("flush", 0, 0, false), super.doFlush());
    await this.#writeSuperblock();
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    return this.#logged(this.#begin("discard", offset, length, false), super.doDiscard(offset, length));
  }

  protected override async doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    for (let at = 0; at < length; at += ZERO_PIECE) {
      const data = zeroes(Math.min(ZERO_PIECE, length - at));
      const entry = this.#begin("write", offset + at, data.length, options.fua === true);
      await this.#logged(entry, super.doWriteZeroes(offset + at, data.length, options), data);
    }
  }

  protected override async doClose(): Promise<void> {
    await this.#writeSuperblock();
    await this.#log.flush();
    await super.doClose();
  }

  #begin(kind: WriteLogEntry["kind"], offset: number, length: number, fua: boolean): WriteLogEntry {
    const submitted = (this.#ticks.last += 1);
    return { kind, offset, length, fua, text: "", submitted, answered: submitted, failed: false };
  }

  async #logged(entry: WriteLogEntry, request: Promise<void>, data?: Buffer): Promise<void> {
    try {
      await request;
    } catch (error) {
      await this.#append({ ...entry, failed: true }, data);
      throw error;
    }
    await this.#append(entry, data);
  }

  async #append(entry: WriteLogEntry, data?: Buffer): Promise<void> {
    const answered = (this.#ticks.last += 1);
    const place = this.#next;
    const sectors = sectorsOfEntry(entry);
    if ((place + sectors) * SECTOR > this.#log.size) {
      throw new BlockIoError("the log is full", {
        code: "ENOSPC",
        device: this.name,
        hint: "Give a larger log device: it takes all that is written, and a sector for each request.",
      });
    }
    this.#next += sectors;
    this.#entries += 1;
    const header = encodeEntry({ ...entry, answered }, this.#session);
    const writes = [this.#log.write(place * SECTOR, header)];
    if (data !== undefined) writes.push(this.#log.write((place + 1) * SECTOR, data));
    // Both, even if one fails: the data is the caller's.
    await join(writes);
  }

  #writeSuperblock(): Promise<void> {
    return this.#log.write(0, encodeSuperblock({ entries: this.#entries, session: this.#session }));
  }
}

/** The entries of a log are sectors. */
function requireSectors({ name, limits: { logicalBlockSize } }: BlockDevice): void {
  if (logicalBlockSize === SECTOR) return;
  throw refuse(
    name,
    "EINVAL",
    `a log is written in sectors of ${SECTOR} bytes, and the device has blocks of ${logicalBlockSize}`,
    "Log to a device of 512-byte blocks, or to a file.",
  );
}

/** A new log replaces an old one, as with the kernel's. */
async function holdsLog(log: BlockDevice): Promise<boolean> {
  const block = Buffer.alloc(Math.min(log.size, log.limits.logicalBlockSize));
  await log.read(0, block);
  return block.length >= SECTOR && isWriteLog(block);
}

/** Nothing is written, nor erased, before everything is known to be right. */
async function examine(
  options: LogWritesOptions,
  { size, lower }: Pick<OpenContext, "size" | "lower">,
): Promise<{ readonly below: BlockDevice; readonly log: BlockDevice; readonly isNew: boolean }> {
  const uses = usesOf(options, size);
  const below = await lower(...uses.device);
  const log = await lower(...uses.log);
  requireRoom(below, 0, size);
  requireSectors(log);
  const isNew = !(await holdsLog(log));
  if (isNew && !options.force) await requireBlank(log, { force: false });
  return { below, log, isNew };
}

// What somebody else wrote would be missing in the log.
function usesOf(
  { device, log }: Pick<LogWritesOptions, "device" | "log">,
  size: number,
): Record<"device" | "log", DeviceUse> {
  return { device: [device, "owns", { offset: 0, length: size }], log: [log, "owns"] };
}

const logWritesControls: Controls<LogWritesDevice> = {
  ...noControls,
  messages: {
    mark: {
      arguments: "<text>",
      help: "puts a mark into the log, to which it can be replayed",
      run: async (device, args) => {
        await device.mark(args.join(" "));
        return "";
      },
    },
  },
};

/** The target `log-writes`: logs every write, so that any crash can be replayed. */
export const logWrites: Target<LogWritesOptions> = {
  name: "log-writes",
  version: [1, 0, 0],
  summary: "logs what is written, to be replayed to any point at which power might have failed",
  synopsis: "<device> <log device> [<#words> (<key> <value>)…]",
  options: logWritesOptions,
  beginsAnew: "log",
  ...logWritesControls,
  stack: { length: ({ device }) => restOf(device) },
  parse(args) {
    const device = args.text("device", logWritesOptions.device);
    const log = args.text("log", logWritesOptions.log);
    const named = args.counted("words").named(namedOptions, logWritesOptions);
    return parseOptions(logWritesOptions, { device, log, ...named }, "log-writes");
  },
  print: (options) => [options.device, options.log, ...printNamed(namedOptions, logWritesOptions, options)],
  uses: (options, size) => Object.values(usesOf(options, size)),
  check: async (options, context) => void (await examine(options, context)),
  async open(given, context) {
    const options = parseOptions(logWritesOptions, given, "log-writes");
    const { below, log, isNew } = await examine(options, context);
    if (isNew && options.force) await requireBlank(log, { force: true });
    return LogWritesDevice.open(below, log, context.size, context.environment, context.name);
  },
};
