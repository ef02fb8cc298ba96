/**
 * Replays the logs of log-writes devices: rebuilds the disks of a real run event by event, and at every flush
 * and FUA write, and at random moments between, cuts the power: some of the unstable sectors survive, others do
 * not. What the run could have left behind is then checked: by any function, or by opening the device that ran
 * and asking the oracle about what its users had been told (replay-oracle.ts).
 */
import { type BlockDevice, SECTOR, plainLimits } from "../../../contract/device.ts";
import {
  type WriteLogEntry,
  decodeEntry,
  decodeSuperblock,
  sectorsOfEntry,
} from "../../../format/write-log.ts";
import { GuardedDevice } from "../../../contract/guard.ts";
import { type Survivors, crashDisks, drawBias } from "../disk/crash.ts";
import { SimDisk } from "../disk/disk.ts";
import { Prng } from "../prng.ts";
import { Trace } from "../trace.ts";
import { World } from "../disk/world.ts";

/** A request in a log, and where in the log its data is. */
export interface LoggedRequest extends WriteLogEntry {
  /** Byte offset in the log. */
  readonly dataAt: number;
}

/** All requests of a log, in order of their answers. Throws `EFORMAT` if this is no log. */
export async function readWriteLog(log: BlockDevice): Promise<LoggedRequest[]> {
  const header = Buffer.alloc(SECTOR);
  await log.read(0, header);
  const { session } = decodeSuperblock(header);
  const requests: LoggedRequest[] = [];
  for (let sector = 1; (sector + 1) * SECTOR <= log.size; ) {
    await log.read(sector * SECTOR, header);
    const entry = decodeEntry(header, session);
    if (entry === undefined || (sector + sectorsOfEntry(entry)) * SECTOR > log.size) break;
    requests.push({ ...entry, dataAt: (sector + 1) * SECTOR });
    sector += sectorsOfEntry(entry);
  }
  return requests;
}

/** A disk of the run that was logged. */
export interface LoggedDisk {
  readonly log: BlockDevice;
  /** Bytes. */
  readonly size: number;
  /** What it held when the log began; zeroes if absent. */
  readonly base?: BlockDevice | undefined;
}

/** A moment at which the power is cut. */
export interface CrashMoment {
  /** Events with this tick and smaller ones have happened. */
  readonly tick: number;
  readonly survivors: Survivors;
  /** The latest mark in any of the logs. */
  readonly mark: string;
}

export interface ReplayOptions {
  readonly disks: readonly LoggedDisk[];
  /** Gets the disks as the crash has left them; may write to them. One text for each problem. */
  readonly check: (disks: readonly BlockDevice[], moment: CrashMoment) => Promise<readonly string[]>;
  /** Random subsets tried at each moment, beside nothing and everything; 3 unless told otherwise. */
  readonly subsets?: number | undefined;
  /** Share of the other events at which the power is cut as well; 0.1 unless told otherwise. */
  readonly between?: number | undefined;
  readonly seed?: number | undefined;
}

export interface ReplaySummary {
  readonly events: number;
  moments: number;
  crashes: number;
  readonly failures: { readonly moment: CrashMoment; readonly problem: string }[];
}

/** A request that is submitted or answered. */
export interface LogEvent {
  readonly tick: number;
  readonly request: LoggedRequest;
  readonly answered: boolean;
  /** Which of several logs it is from. */
  readonly disk: number;
}

/** Both events of each request, not in order. */
export function eventsOf(requests: readonly LoggedRequest[], disk = 0): LogEvent[] {
  return requests.flatMap((request) => [
    { tick: request.submitted, request, answered: false, disk },
    { tick: request.answered, request, answered: true, disk },
  ]);
}

/** In the order in which they happened. */
export function inOrder(events: LogEvent[]): LogEvent[] {
  return events.sort((a, b) => a.tick - b.tick || Number(a.answered) - Number(b.answered));
}

/** Replays logs; stops after ten failures. */
export async function replayWriteLog(options: ReplayOptions): Promise<ReplaySummary> {
  const { subsets = 3, between = 0.1, seed = 1 } = options;
  const random = new Prng(seed, 77);
  const replay = await Replay.open(options.disks, seed);
  const summary: ReplaySummary = { events: replay.events.length, moments: 0, crashes: 0, failures: [] };
  for (const event of replay.events) {
    await replay.apply(event);
    const { kind, fua } = event.request;
    const barrier = event.answered && (kind === "flush" || kind === "mark" || fua);
    if (!barrier && !random.chance(between)) continue;
    summary.moments += 1;
    const survivors: Survivors[] = [
      "none",
      "all",
      ...Array.from({ length: subsets }, () => drawBias(random)),
    ];
    for (const some of survivors) {
      const moment = { tick: event.tick, survivors: some, mark: replay.mark };
      const problems = await options.check(replay.crashed(some, random), moment);
      summary.crashes += 1;
      for (const problem of problems) summary.failures.push({ moment, problem });
      if (summary.failures.length >= 10) return summary;
    }
  }
  return summary;
}

class Replay {
  readonly events: readonly LogEvent[];
  mark = "";
  readonly #logs: readonly LoggedDisk[];
  readonly #disks: readonly SimDisk[];
  readonly #scratch: readonly SimDisk[];
  readonly #begun = new Map<
    LoggedRequest,
    { write: ReturnType<SimDisk["begin"]> | undefined; covers: number }
  >();
  readonly #random: Prng;

  private constructor(
    logs: readonly LoggedDisk[],
    disks: SimDisk[],
    scratch: SimDisk[],
    events: LogEvent[],
    seed: number,
  ) {
    this.#logs = logs;
    this.#disks = disks;
    this.#scratch = scratch;
    this.events = events;
    this.#random = new Prng(seed, 78);
  }

  static async open(logs: readonly LoggedDisk[], seed: number): Promise<Replay> {
    const world = new World(new Trace());
    const events: LogEvent[] = [];
    const make = (): SimDisk[] =>
      logs.map(({ size }, index) => new SimDisk({ name: `disk ${index}`, size }, index, world, seed));
    const disks = make();
    for (const [disk, { log, base }] of logs.entries()) {
      events.push(...eventsOf(await readWriteLog(log), disk));
      const image = disks[disk];
      if (base === undefined || image === undefined) continue;
      await base.read(0, image.stable);
      image.stable.copy(image.current);
    }
    return new Replay(logs, disks, make(), inOrder(events), seed);
  }

  async apply({ disk: index, request, answered }: LogEvent): Promise<void> {
    const disk = this.#disks[index];
    if (disk === undefined) return;
    if (request.kind === "mark") this.mark = request.text;
    else if (!answered) await this.#begin(disk, index, request);
    else this.#answer(disk, request);
  }

  /** The disks after a crash here, as devices. The replay itself goes on from before. */
  crashed(survivors: Survivors, random: Prng): BlockDevice[] {
    for (const [index, disk] of this.#disks.entries()) this.#scratch[index]?.restore(disk.snapshot());
    crashDisks(this.#scratch, survivors, random);
    return this.#scratch.map((disk) => new ImageDevice(disk.spec.name, disk.stable));
  }

  async #begin(disk: SimDisk, index: number, request: LoggedRequest): Promise<void> {
    const { kind, offset, length, dataAt } = request;
    let write: ReturnType<SimDisk["begin"]> | undefined;
    if (kind === "write") {
      const data = Buffer.alloc(length);
      await this.#logs[index]?.log.read(dataAt, data);
      write = disk.begin(offset, length, data);
    } else if (kind === "discard") write = disk.begin(offset, length, undefined);
    this.#begun.set(request, { write, covers: disk.completions });
  }

  #answer(disk: SimDisk, request: LoggedRequest): void {
    const begun = this.#begun.get(request);
    this.#begun.delete(request);
    if (begun?.write === undefined) {
      if (request.kind === "flush" && !request.failed) disk.flushed(begun?.covers ?? 0);
      return;
    }
    if (request.failed) disk.fail(begun.write, () => this.#random.chance(0.5));
    else {
      const done = disk.complete(begun.write, begun.write.data);
      if (request.fua) disk.settle(done);
    }
  }
}

/** The bytes of an image, as a device. */
class ImageDevice extends GuardedDevice {
  readonly #bytes: Buffer;

  constructor(name: string, bytes: Buffer) {
    super(name, bytes.length, plainLimits);
    this.#bytes = bytes;
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    this.#bytes.copy(into, 0, offset, offset + into.length);
  }

  protected override async doWrite(offset: number, from: Buffer): Promise<void> {
    from.copy(this.#bytes, offset);
  }

  protected override async doFlush(): Promise<void> {}
}
