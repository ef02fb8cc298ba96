/**
 * A device whose table can be exchanged while clients use it: everything goes to the table that is in place, and
 * waits while there is none.
 *
 *     live ──hold──▶ held ──let go──▶ live       (the same table, or another one)
 *                      └───close────▶ closed
 *
 * Invariants:
 *
 * - a request is handed to the table, or to the target that is all of it, in the turn it is accepted in: their own
 *   count of requests in flight is complete, and suspending or closing the table waits for all of them;
 * - requests that waited go on in the order in which they came;
 * - nobody who opened the device is promised less later: the logical block size never changes, FUA works whatever
 *   the table below can do, and `fitsInPlaceOf` refuses tables that take back what others rely on.
 *
 * It checks nothing by itself, the devices below do, and costs a function call a request.
 */
import {
  type BlockDevice,
  BlockIoError,
  type Clock,
  type Extent,
  type Gate,
  type Health,
  type Limits,
  type MessageOptions,
  type Operation,
  type Place,
  type RangeDescription,
  type StorageFacts,
  type WriteOptions,
  type WriteZeroesOptions,
  healthOf,
  healthy,
  makeGate,
  plainLimits,
  refuse,
  shellQuote,
  storageOf,
} from "@dmkit/block-io";
import type { Keeper } from "../../moment/moment.ts";
import { Meter, untimed } from "../../top/meter.ts";
import type { SampledTraffic } from "../../top/snapshot.ts";
import { OnceATurn } from "./once-a-turn.ts";
import type { OpenedTable } from "./opened-table.ts";
import type { BelowStatus, SegmentStatus } from "../snapshot.ts";

export class NamedDevice implements BlockDevice {
  /** How it is while there is no table; whoever stands on it is no better. */
  withoutTable: () => Health = () => healthy;
  /** Told of changes before they happen, as long as somebody reads the device as it was; see moment.ts. */
  keeper: Keeper | undefined;
  #name: string;
  // Undefined while requests are held.
  #live: BlockDevice | undefined;
  #opened: OpenedTable | undefined;
  #gate: Gate | undefined;
  #size = 0;
  #limits: Limits = plainLimits;
  #closed = false;
  #walks = 0;
  #walked: (() => void)[] = [];
  readonly #flushes: OnceATurn<void> = new OnceATurn();
  readonly #storage: OnceATurn<readonly StorageFacts[]> = new OnceATurn();
  readonly #meter: Meter;

  /** Without a table, and requests are held. */
  constructor(name: string, clock: Clock) {
    this.#name = name;
    this.#meter = new Meter(clock);
    this.#gate = makeGate();
  }

  get name(): string {
    return this.#name;
  }

  /** Bytes; may grow when the table is exchanged. */
  get size(): number {
    return this.#size;
  }

  get limits(): Limits {
    return this.#limits;
  }

  get traffic(): SampledTraffic {
    return this.#meter.traffic();
  }

  /** The table in place, or that waits to go on; undefined if none could be opened, or it is being exchanged. */
  get opened(): OpenedTable | undefined {
    return this.#opened;
  }

  get held(): boolean {
    return this.#live === undefined;
  }

  /** Requests are refused; no table that is put in goes on. */
  get closed(): boolean {
    return this.#closed;
  }

  rename(name: string): void {
    this.#name = name;
  }

  /** From now on requests wait. Those in flight go on. */
  hold(): void {
    this.#live = undefined;
    this.#gate ??= makeGate();
  }

  /** Takes the table out, for whoever has it now to close. Requests must be held. */
  takeOut(): OpenedTable | undefined {
    const opened = this.#opened;
    this.#opened = undefined;
    return opened;
  }

  /** Puts a table in. Requests stay held. */
  putIn(opened: OpenedTable): void {
    this.#opened = opened;
    this.keeper?.replaced("the device was given another table");
    this.#size = opened.device.size;
    this.#limits = opened.device.limits;
  }

  /** Requests that waited go on, in order. Does nothing without a table, or when closed. */
  letGo(): void {
    if (this.#opened === undefined || this.#closed) return;
    this.#live = this.#opened.direct ?? this.#opened.device;
    this.#gate?.open();
    this.#gate = undefined;
  }

  /** On the table in place; without one they are nowhere else. */
  places(offset: number, length: number): readonly Place[] {
    return [{ on: this.#opened?.device ?? this, offset, length }];
  }

  read(offset: number, into: Buffer): Promise<void> {
    const live = this.#live;
    if (live === undefined) return this.#waited().then(() => this.read(offset, into));
    const started = this.#meter.read(into.length);
    const result = live.read(offset, into);
    return started === untimed ? result : this.#meter.timed("read", started, result);
  }

  write(offset: number, from: Buffer, options?: WriteOptions): Promise<void> {
    const live = this.#live;
    if (live === undefined) return this.#waited().then(() => this.write(offset, from, options));
    const kept = this.keeper?.before(offset, from.length);
    if (kept !== undefined) return kept.then(() => this.write(offset, from, options));
    this.#flushes.changed();
    const started = this.#meter.write(from.length);
    const result = live.write(offset, from, options);
    return started === untimed ? result : this.#meter.timed("write", started, result);
  }

  flush(): Promise<void> {
    const live = this.#live;
    if (live === undefined) return this.#waited().then(() => this.flush());
    return this.#flushes.ask(() => {
      const started = this.#meter.flush();
      const result = live.flush();
      return started === untimed ? result : this.#meter.timed("flush", started, result);
    });
  }

  async storage(): Promise<readonly StorageFacts[]> {
    const live = this.#live;
    return live === undefined ? [] : this.#storage.ask(() => storageOf(live));
  }

  discard(offset: number, length: number): Promise<void> {
    const live = this.#live;
    if (live === undefined) return this.#waited().then(() => this.discard(offset, length));
    const kept = this.keeper?.before(offset, length);
    if (kept !== undefined) return kept.then(() => this.discard(offset, length));
    this.#flushes.changed();
    this.#meter.discard();
    return live.discard(offset, length);
  }

  writeZeroes(offset: number, length: number, options: WriteZeroesOptions = {}): Promise<void> {
    const live = this.#live;
    if (live === undefined) return this.#waited().then(() => this.writeZeroes(offset, length, options));
    const kept = this.keeper?.before(offset, length);
    if (kept !== undefined) return kept.then(() => this.writeZeroes(offset, length, options));
    this.#flushes.changed();
    this.#meter.writeZeroes();
    return live.writeZeroes(offset, length, options);
  }

  async *extents(offset: number, length: number): AsyncIterable<Extent> {
    while (this.#live === undefined) await this.#waited();
    yield* this.#live.extents(offset, length);
  }

  /**
   * Those of the table in place. Clients are told their names when they connect, and keep asking by these: what there is
   * under a name is looked for each time.
   */
  get descriptions(): readonly RangeDescription[] {
    return (this.#opened?.descriptions ?? []).map(({ name, otherwise, id }) => ({
      name,
      otherwise,
      id,
      describe: (offset, length) => this.#describe({ name, otherwise }, offset, length),
    }));
  }

  // Targets do not count these walks as requests in flight, so they are counted here.
  async *#describe(
    { name, otherwise }: Pick<RangeDescription, "name" | "otherwise">,
    offset: number,
    length: number,
  ): ReturnType<RangeDescription["describe"]> {
    while (this.#live === undefined) await this.#waited();
    const description = this.#opened?.descriptions.find((one) => one.name === name);
    if (description === undefined) {
      yield { length, status: otherwise };
      return;
    }
    this.#walks += 1;
    try {
      yield* description.describe(offset, length);
    } finally {
      this.#walks -= 1;
      if (this.#walks === 0) for (const wake of this.#walked.splice(0)) wake();
    }
  }

  /** Resolves when nobody walks descriptions of the table in place any more. */
  async walksEnded(): Promise<void> {
    if (this.#walks > 0) await new Promise<void>((resolve) => this.#walked.push(resolve));
  }

  /** That of the table in place, and of all it stands on. */
  health(): Health {
    return this.#opened?.health() ?? this.withoutTable();
  }

  segments(): readonly SegmentStatus[] {
    return this.#opened?.segments() ?? [];
  }

  /** The devices it has opened below. */
  lowers(): readonly BlockDevice[] {
    return this.#opened?.lowers() ?? [];
  }

  /** What those say of themselves; other named devices are left out. */
  below(): readonly BelowStatus[] {
    return this.lowers().flatMap((device) => {
      const fields = device.facts?.();
      return fields === undefined ? [] : [{ name: device.name, health: healthOf(device), fields }];
    });
  }

  /** One device-mapper status line a segment. */
  status(): string {
    return this.segments()
      .map(({ start, length, target, status }) => `${start} ${length} ${target} ${status}`.trimEnd())
      .join("\n");
  }

  message(words: readonly string[], options: MessageOptions = {}): Promise<string> {
    if (this.#opened !== undefined) return this.#opened.message(words, options);
    return Promise.reject(
      new BlockIoError("has no table at present", {
        code: "EBUSY",
        device: this.name,
        op: "message",
        hint: `Give it one: dmkit reload ${shellQuote(this.name)} --table "…"; dmkit resume ${shellQuote(this.name)}`,
      }),
    );
  }

  /** What it shows under the name of a snapshot, to be read. Errors: `EINVAL` where it has none, `ENOENT`, the target's. */
  async openSnapshot(name: string): Promise<BlockDevice> {
    const [target, ...others] = this.#opened?.targets ?? [];
    if (target?.openSnapshot !== undefined && others.length === 0) return target.openSnapshot(name);
    const hint = "Snapshots are of devices whose table is one line of a target that has them.";
    throw refuse(this.name, "EINVAL", "has no snapshots", hint);
  }

  /** Holds requests until those in flight are answered and all is flushed, and goes on being held. */
  async suspend(): Promise<void> {
    if (this.#closed) throw this.#closedError("suspend");
    this.hold();
    await this.#opened?.device.suspend();
  }

  async resume(): Promise<void> {
    if (this.#closed) throw this.#closedError("resume");
    await this.#opened?.device.resume();
    this.letGo();
  }

  /** Saves what closing would; it must be suspended. Errors: those of the targets; nothing is lost then. */
  async secure(): Promise<void> {
    for (const target of this.#opened?.targets ?? []) await target?.secure?.();
  }

  /** From now on requests are refused, those that wait as well. Those in flight go on. */
  refuse(): void {
    this.#closed = true;
    this.#live = undefined;
    this.#gate ??= makeGate();
    this.#gate.refuse(this.#closedError("close"));
  }

  /** Requests that wait are refused; the table is closed. */
  async close(): Promise<void> {
    this.refuse();
    await this.takeOut()?.close();
  }

  #closedError(op: Operation): BlockIoError {
    return new BlockIoError("the device is closed", { code: "ESHUTDOWN", device: this.name, op });
  }

  #waited(): Promise<void> {
    return this.#gate?.promise ?? Promise.resolve();
  }
}
