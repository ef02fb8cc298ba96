/**
 * Logs of a real run against the oracle: one log-writes device above the device under test tells what its users
 * asked for and were told; others below it tell what it did to its disks. Replaying the lower ones to a crash,
 * opening the device on what is left, and reading all of it shows whether a promise was broken.
 */
import { createHash } from "node:crypto";
import { type BlockDevice, SECTOR } from "../../../contract/device.ts";
import { type Environment, realEnvironment } from "../../../contract/environment.ts";
import { GARBAGE, ZERO } from "../format/stamp.ts";
import { show } from "../run/load.ts";
import { Oracle, type Version } from "./oracle.ts";
import {
  type LogEvent,
  type LoggedRequest,
  type ReplayOptions,
  eventsOf,
  inOrder,
  readWriteLog,
} from "./replay-log.ts";

/** What the users of a device were told, from the log of a log-writes device above it. */
export interface OracleOptions {
  /** The log of what its users asked of the device. */
  readonly top: BlockDevice;
  /** Opens the device on what a crash has left of its disks. */
  readonly open: (disks: readonly BlockDevice[], env: Environment) => Promise<BlockDevice>;
  readonly environment?: Environment | undefined;
}

/**
 * A check for {@link replayWriteLog} that opens the device and asks the oracle about all of it. The device has
 * to read as zeroes at first. Moments must be checked in order of their ticks, as replaying does.
 */
export async function oracleCheck(options: OracleOptions): Promise<ReplayOptions["check"]> {
  const history = await History.open(options.top);
  return async (disks, { tick }) => {
    let device: BlockDevice;
    try {
      device = await options.open(disks, options.environment ?? realEnvironment);
    } catch (error) {
      return [`it does not open: ${show(error)}`];
    }
    try {
      return await history.judge(device, tick);
    } finally {
      await device.close();
    }
  };
}

class History {
  readonly #events: readonly LogEvent[];
  readonly #log: BlockDevice;
  readonly #contents = new Map<string, number>();
  readonly #versions = new Map<LoggedRequest, Version[]>();
  readonly #flushes = new Map<LoggedRequest, number>();
  #oracle: Oracle | undefined;
  #next = 0;

  private constructor(log: BlockDevice, events: readonly LogEvent[]) {
    this.#log = log;
    this.#events = events;
    this.#contents.set(fingerprint(Buffer.alloc(SECTOR), 0), ZERO);
  }

  static async open(log: BlockDevice): Promise<History> {
    return new History(log, inOrder(eventsOf(await readWriteLog(log))));
  }

  /** What is wrong with a device that comes back from a crash at `tick`. */
  async judge(device: BlockDevice, tick: number): Promise<string[]> {
    this.#oracle ??= new Oracle(device.size / SECTOR);
    for (; (this.#events[this.#next]?.tick ?? Infinity) <= tick; this.#next += 1) {
      await this.#apply(this.#oracle, this.#events[this.#next] as LogEvent);
    }
    const oracle = this.#oracle.fork();
    oracle.crash();
    const asked = oracle.beginRead();
    const problems: string[] = [];
    const bytes = Buffer.alloc(Math.min(device.size, 1024 * 1024));
    for (let offset = 0; offset < device.size; offset += bytes.length) {
      const piece = bytes.subarray(0, Math.min(bytes.length, device.size - offset));
      await device.read(offset, piece);
      for (let at = 0; at < piece.length; at += SECTOR) {
        const content = this.#contents.get(fingerprint(piece, at)) ?? GARBAGE;
        const finding = oracle.check(asked, (offset + at) / SECTOR, content);
        if (finding !== undefined) problems.push(finding.message);
      }
    }
    return problems;
  }

  async #apply(oracle: Oracle, { request, answered }: LogEvent): Promise<void> {
    if (request.kind === "mark") return;
    if (request.kind === "flush") {
      if (!answered) this.#flushes.set(request, oracle.beginFlush());
      else if (!request.failed) oracle.flushed(this.#flushes.get(request) ?? 0);
      return;
    }
    if (!answered) this.#versions.set(request, await this.#begin(oracle, request));
    else if (!request.failed) {
      for (const version of this.#versions.get(request) ?? []) oracle.acknowledge(version, request.fua);
    }
  }

  /** One version for each sector: what users write is not stamped, so sectors are told by their contents. */
  async #begin(oracle: Oracle, { kind, offset, length, dataAt }: LoggedRequest): Promise<Version[]> {
    if (kind === "discard") return [oracle.beginWrite(ZERO, offset / SECTOR, length / SECTOR, true)];
    const data = Buffer.alloc(length);
    await this.#log.read(dataAt, data);
    const versions: Version[] = [];
    for (let at = 0; at < length; at += SECTOR) {
      const print = fingerprint(data, at);
      let content = this.#contents.get(print);
      if (content === undefined) this.#contents.set(print, (content = this.#contents.size + 1));
      versions.push(oracle.beginWrite(content, (offset + at) / SECTOR, 1));
    }
    return versions;
  }
}

function fingerprint(bytes: Buffer, at: number): string {
  return createHash("sha1")
    .update(bytes.subarray(at, at + SECTOR))
    .digest("base64");
}
