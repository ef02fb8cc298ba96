/** A named device with all that the manager knows of it. */
import {
  type BlockDevice,
  BlockIoError,
  type Environment,
  type FilesBelow,
  type Health,
  type Holder,
  type MessageOptions,
  type Segment,
  failureOf,
  healthOf,
  healthy,
  type TargetRegistry,
  printTable,
  refuse,
  shellQuote,
} from "@dmkit/block-io";
import type { BorrowedDevice } from "./borrowed-device.ts";
import { HealthRecord } from "../health-watch.ts";
import { NamedDevice } from "./named-device.ts";
import { readTable, renameReferences, resolvePaths } from "../references.ts";
import type { DeviceSnapshot, DeviceState, Space } from "../snapshot.ts";

/** A table that was loaded and not put in place yet. */
export interface InactiveTable {
  readonly text: string;
  readonly segments: readonly Segment[];
  readonly readOnly: boolean;
  /** Whatever is lost. */
  readonly force: boolean;
}

/** Tables of an exchange that is under way, with the present names of the devices they refer to. */
export interface ExchangedTables {
  next: InactiveTable;
  /** The lines of the one that was closed, to be opened again if need be. None before, or if there was none. */
  before: readonly Segment[];
}

/** A line of a closed table that tells of a disk, which may go on without it. */
export interface GoneLine {
  readonly line: Segment;
  /** Its devices have all that it had. */
  readonly isHome: boolean;
  /** What its files were. */
  readonly files: FilesBelow;
}

interface RunningMessage {
  readonly ending: AbortController;
  readonly over: Promise<unknown>;
}

export class ManagedDevice {
  readonly device: NamedDevice;
  /** As others are told of it who ask for what it uses. */
  readonly holder: Holder;
  /** Names of exports, and whether their clients may write. */
  readonly exports: Map<string, { readonly writes: boolean }> = new Map();
  /** As what other devices have opened it. */
  readonly borrowed: Set<BorrowedDevice<ManagedDevice>> = new Set();
  inactive: InactiveTable | undefined;
  /** Lines of closed tables with data on their devices that only such lines find. None while the table in place does. */
  left: readonly Segment[] = [];
  /** Lines that may be put back, as long as nothing was written past them; see retire.ts. */
  gone: readonly GoneLine[] = [];
  /** What the table that was closed showed to devices that rely on it, until a table is in place again. */
  relied: { readonly size: number; readonly witness: string } | undefined;
  /** The lines of its table as they were before the first message. */
  untold: readonly Segment[] | undefined;
  /**
   * What references of its table mean that may come to mean something else. A table that takes its place has the same
   * under the same reference: what was put on it, and its clients, would not go with anything else.
   */
  pins: ReadonlyMap<string, string> = new Map();
  /** What its files were, as long as it had a table. */
  files: FilesBelow = new Map();
  /** What is left in the file systems below, when that was last looked at. */
  space: Space | undefined;
  readOnly: boolean;
  /** Its table is being exchanged: from the first look at the new one on. */
  exchanged: ExchangedTables | undefined;
  /** The same, from where requests wait on. */
  changing = false;
  /** It is being removed whatever happens: nobody may begin to use it. */
  leaving = false;
  readonly #targets: TargetRegistry;
  readonly #health: HealthRecord;
  readonly #messages: Set<RunningMessage> = new Set();
  // Tables are asked for by whoever looks at the server: each is read once.
  #shown: { readonly text: string; readonly absolute: string } = { text: "", absolute: "" };
  #turn: Promise<unknown> = Promise.resolve();

  constructor(name: string, readOnly: boolean, targets: TargetRegistry, environment: Environment) {
    const device = new NamedDevice(name, environment.clock);
    this.device = device;
    // While its table is exchanged there is nothing to look at.
    device.withoutTable = () => (this.changing ? healthy : brokenHealth(device.name));
    this.#targets = targets;
    this.#health = new HealthRecord(environment);
    this.readOnly = readOnly;
    this.holder = {
      get name() {
        return `device ${device.name}`;
      },
      get advice() {
        return `remove that device first: dmkit remove ${shellQuote(device.name)}`;
      },
    };
  }

  get name(): string {
    return this.device.name;
  }

  get used(): boolean {
    return this.exports.size > 0 || this.borrowed.size > 0;
  }

  /** The devices above it. */
  get owners(): ManagedDevice[] {
    return [...new Set([...this.borrowed].map(({ owner }) => owner))];
  }

  /** Who uses it, in words. */
  get users(): readonly string[] {
    return [
      ...this.owners.map(({ name }) => `device ${name}`),
      ...[...this.exports.keys()].map((name) => `export ${JSON.stringify(name)}`),
      ...(this.device.keeper === undefined ? [] : ["a command that reads it as it was"]),
    ];
  }

  get state(): DeviceState {
    if (this.device.opened === undefined && !this.changing) return "broken";
    return this.device.held ? "suspended" : "live";
  }

  /** How it is now; a change since the last look is logged. */
  health(): Health {
    return this.#health.note(this.name, healthOf(this.device));
  }

  /**
   * The table as it is now, with absolute paths: whoever loads it again need not be in the server's folder. Empty if
   * there is none.
   * @param below the devices its table refers to, as it calls them.
   */
  table(below: ReadonlyMap<string, ManagedDevice>): string {
    return renameReferences(this.#absoluteTable(), (name) => below.get(name)?.name ?? name);
  }

  // What was opened without a table, or put under a device by a message, has the name it was given.
  #absoluteTable(): string {
    const text = this.device.opened?.table() ?? "";
    if (text === "") return "";
    if (text !== this.#shown.text) {
      const segments = resolvePaths(readTable(text, this.#targets), process.cwd(), this.#targets);
      this.#shown = { text, absolute: printTable(segments) };
    }
    const { past } = this.device.opened ?? {};
    return past === undefined ? this.#shown.absolute : `# ${past}\n${this.#shown.absolute}`;
  }

  /** At the end: goes on, or refuses what waits in vain. One whose table is being exchanged goes on by itself. */
  async goOn(): Promise<void> {
    if (this.state === "broken") await this.device.close();
    else if (this.state === "suspended" && !this.changing) await this.device.resume();
  }

  /** Runs `work` while nothing is in flight, all is flushed, and requests wait. Errors: EBUSY (suspended), those of flushing. */
  async atRest(work: (device: NamedDevice) => void): Promise<void> {
    const { device } = this;
    if (device.held)
      throw refuse(
        this.name,
        "EBUSY",
        "is suspended",
        `Let it go on first: dmkit resume ${shellQuote(this.name)}`,
      );
    try {
      await device.suspend();
      work(device);
    } finally {
      await device.resume();
    }
  }

  /** Runs changes of state one after the other. */
  inTurn<T>(change: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(change);
    this.#turn = result.catch(() => {});
    return result;
  }

  async message(words: readonly string[], { signal, progress }: MessageOptions): Promise<string> {
    if (this.changing) {
      throw new BlockIoError("its table is being exchanged", {
        code: "EBUSY",
        device: this.name,
        op: "message",
        hint: "Send the message again in a moment.",
      });
    }
    // What it puts under the device would stand in its table, which has a line for each segment.
    if (words.some((word) => word.includes("\n"))) {
      throw refuse(this.name, "EINVAL", "a message has no line breaks", undefined, "message");
    }
    const ending = new AbortController();
    const end = (): void => ending.abort(signal?.reason);
    signal?.addEventListener("abort", end);
    if (signal?.aborted) end();
    const answer = this.device.message(words, {
      signal: ending.signal,
      progress,
      users: this.users,
      above: this.owners.map(({ name }) => `device ${name}`),
      givenUp: () => this.device.keeper?.replaced("its contents were given up by a message"),
    });
    const running: RunningMessage = { ending, over: answer.catch(() => {}) };
    this.#messages.add(running);
    try {
      return await answer;
    } finally {
      this.#messages.delete(running);
      signal?.removeEventListener("abort", end);
    }
  }

  /** Ends messages that can be ended, waits for the others, and for all who walk through the table. */
  async quiesce(): Promise<void> {
    for (const { ending } of this.#messages) {
      ending.abort(
        new BlockIoError("was ended because the table is closed", {
          code: "ESHUTDOWN",
          device: this.name,
          op: "message",
        }),
      );
    }
    await Promise.all([...this.#messages].map(({ over }) => over));
    await this.device.walksEnded();
  }

  snapshot(below: ReadonlyMap<string, ManagedDevice>): DeviceSnapshot {
    const { device } = this;
    const opened: BlockDevice | undefined = device.opened?.device;
    return {
      name: this.name,
      table: this.table(below),
      inactiveTable: this.inactive?.text,
      state: this.state,
      size: device.size,
      readOnly: device.limits.capabilities.readOnly,
      failure: opened && failureOf(opened)?.message,
      health: this.health(),
      segments: device.segments(),
      below: device.below(),
      space: this.space,
      holders: [
        ...this.owners.map(({ name }) => ({ kind: "device", name }) as const),
        ...[...this.exports.keys()].map((name) => ({ kind: "export", name }) as const),
      ],
      uses: [...new Set([...below.values()].map(({ name }) => name))],
      traffic: device.traffic,
    };
  }
}

function brokenHealth(name: string): Health {
  return {
    state: "failed",
    why: "no table could be opened: requests wait",
    help: `Give it one: dmkit reload ${shellQuote(name)} --table "…"; dmkit resume ${shellQuote(name)}`,
  };
}
