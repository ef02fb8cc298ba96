/**
 * Devices as they were, now or at a snapshot, for clients of the control socket: each over an NBD socket of its own, in a
 * folder that only this user can look into.
 *
 * Invariants:
 *
 * - a moment that nobody holds ends, so that what clients write is not kept for a command that is gone. Whoever
 *   begins one has some seconds to hold it;
 * - while there is one, its device's bytes are written through that device only, which tells the moment first: no other
 *   device shares them.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type BlockDevice,
  DIRTY_BITMAP,
  type Environment,
  type RangeDescription,
  type Timer,
  asking,
  claims,
  every,
  openNameless,
  randomUuid,
  refuse,
  toBlockIoError,
} from "@dmkit/block-io";
import { NbdServer } from "@dmkit/nbd";
import { Cancelled } from "../control/protocol.ts";
import type { DeviceManager } from "../manager/device-manager.ts";
import type { NamedDevice } from "../manager/device/named-device.ts";
import type { Begun, Changed } from "./answers.ts";
import { Moment } from "./moment.ts";

/** Milliseconds to hold what was begun. */
const PATIENCE = 10_000;
/** Milliseconds between two reports to who holds it. */
const TELL_EVERY = 1000;
/** Ranges in one answer. */
const MOST_RANGES = 10_000;

interface Served {
  /** Bytes. */
  readonly size: number;
  readonly uri: string;
  readonly end: () => Promise<void>;
}

interface Held extends Served {
  /** Of the device. */
  readonly name: string;
  /** Bytes that were kept for it so far. */
  readonly kept: () => number;
  readonly epochs: Begun["epochs"];
  /** What is known of what has changed. */
  readonly descriptions: () => readonly RangeDescription[];
}

export class Moments {
  readonly #devices: DeviceManager;
  readonly #environment: Environment;
  readonly #held: Map<string, Held> = new Map();
  /** Those that nobody holds yet. */
  readonly #waiting: Map<string, Timer> = new Map();

  constructor(devices: DeviceManager, environment: Environment) {
    this.#devices = devices;
    this.#environment = environment;
  }

  /** The device as it is now, or, for `DEVICE@NAME`, a snapshot of it. Errors: those of either. */
  async begin(name: string): Promise<Begun> {
    const at = name.lastIndexOf("@");
    // A device may have an @ in its name.
    if (at < 0 || this.#devices.names.includes(name)) return this.#beginNow(name);
    return this.#beginSnapshot(this.#devices.device(name.slice(0, at)), name.slice(at + 1));
  }

  /** Errors: ENOENT, EBUSY (suspended, or read as it was by somebody else), those of files. */
  async #beginNow(name: string): Promise<Begun> {
    const device = this.#devices.device(name);
    const file = await openNameless(device.size, this.#environment);
    const moment = new Moment(device, file);
    let giveBack = (): void => {};
    let epochs: Begun["epochs"] = {};
    const unhook = (): void => {
      if (device.keeper === moment) device.keeper = undefined;
      giveBack();
    };
    const served = await this.#serve(moment, unhook);
    try {
      await this.#devices.atRest(name, () => {
        if (device.keeper !== undefined)
          throw refuse(name, "EBUSY", "is read as it was by somebody else", "Wait for that to end.");
        giveBack = claim(device);
        epochs = epochsOf(device);
        device.keeper = moment;
      });
    } catch (error) {
      await served.end().catch(() => {});
      throw error;
    }
    return this.#keep(device, {
      ...served,
      epochs,
      kept: () => moment.kept,
      descriptions: () => device.descriptions,
    });
  }

  /** Errors: EINVAL (it has none), ENOENT, EBUSY, those of opening the snapshot. */
  async #beginSnapshot(device: NamedDevice, name: string): Promise<Begun> {
    const snapshot = await device.openSnapshot(name);
    const served = await this.#serve(snapshot, () => {});
    return this.#keep(device, { ...served, epochs: {}, kept: () => 0, descriptions: () => [] });
  }

  /** Serves a device over a socket of its own until `end`, which closes it. @param unhook done first then. */
  async #serve(device: BlockDevice, unhook: () => void): Promise<Served> {
    const server = new NbdServer({ environment: this.#environment });
    let folder: string | undefined;
    let ending: Promise<void> | undefined;
    const finish = async (): Promise<void> => {
      unhook();
      await server.close({ timeout: 1000 });
      if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
      await device.close();
    };
    const end = (): Promise<void> => (ending ??= finish());
    try {
      folder = asking({ device: tmpdir(), op: "listen" }, () => mkdtempSync(join(tmpdir(), "dmkit-")));
      server.addExport({ name: "", device, readOnly: true });
      const listener = await server.listen({ path: join(folder, "s") });
      return { size: device.size, uri: listener.uri(), end };
    } catch (error) {
      await end().catch(() => {});
      throw error;
    }
  }

  #keep({ name }: NamedDevice, held: Omit<Held, "name">): Begun {
    const id = randomUuid(this.#environment.random);
    this.#held.set(id, { ...held, name });
    this.#endUnlessHeld(id);
    return { id, uri: held.uri, epochs: held.epochs };
  }

  /**
   * Keeps a moment until the signal; always rejects, with `Cancelled` then. Errors: ENOENT.
   * @param tell called every second with the bytes kept so far, which is how it is found out that a client is gone.
   */
  async hold(id: string, signal: AbortSignal, tell: (kept: number) => void): Promise<never> {
    const held = this.#find(id);
    this.#waiting.get(id)?.cancel();
    this.#waiting.delete(id);
    const telling = every(this.#environment.clock, TELL_EVERY, () => tell(held.kept()));
    if (!signal.aborted)
      await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
    telling.cancel();
    this.#held.delete(id);
    await held.end();
    throw new Cancelled("the device is not read as it was any more");
  }

  /** What has changed since an epoch began, from byte `from` on. Errors: ENOENT with those there are. */
  async changed(id: string, since: string, from: number): Promise<Changed> {
    const held = this.#find(id);
    const description = held.descriptions().find(({ name }) => name === `${DIRTY_BITMAP}${since}`);
    if (description === undefined) {
      const names = held.descriptions().filter(({ name }) => name.startsWith(DIRTY_BITMAP));
      const known = names.map(({ name }) => name.slice(DIRTY_BITMAP.length)).join(", ");
      const hint =
        names.length > 0 ? `There are: ${known}.` : "See dmkit targets for one that records what changes.";
      throw refuse(
        held.name,
        "ENOENT",
        `does not know what has changed since ${JSON.stringify(since)}`,
        hint,
      );
    }
    // What was marked since a name began once more is not what was marked since it began.
    if (description.id !== undefined && description.id !== held.epochs[since])
      throw refuse(
        held.name,
        "EBUSY",
        `${JSON.stringify(since)} has begun anew since the device was read as it was`,
        "Run the command again.",
      );
    const ranges: [number, number][] = [];
    const start = Math.min(from, held.size);
    let at = start;
    if (at === held.size) return { ranges, next: at };
    for await (const { length, status } of description.describe(start, held.size - start)) {
      const last = ranges.at(-1);
      const joins = last !== undefined && last[0] + last[1] === at;
      if ((status & 1) !== 0 && joins) last[1] += length;
      else if ((status & 1) !== 0) {
        if (ranges.length === MOST_RANGES) return { ranges, next: at };
        ranges.push([at, length]);
      }
      at += length;
    }
    return { ranges, next: held.size };
  }

  async close(): Promise<void> {
    for (const timer of this.#waiting.values()) timer.cancel();
    const all = [...this.#held.values()];
    this.#held.clear();
    await Promise.all(all.map(({ end }) => end().catch(() => {})));
  }

  #endUnlessHeld(id: string): void {
    const timer = this.#environment.clock.after(PATIENCE, () => {
      const held = this.#held.get(id);
      this.#held.delete(id);
      this.#waiting.delete(id);
      void held?.end().catch(() => {});
    });
    this.#waiting.set(id, timer);
  }

  #find(id: string): Held {
    const held = this.#held.get(id);
    if (held !== undefined) return held;
    throw refuse(id, "ENOENT", "is no device as it was, or not any more", "Run the command again.");
  }
}

function epochsOf(device: NamedDevice): Begun["epochs"] {
  const known = device.descriptions.flatMap(({ name, id }) =>
    id !== undefined && name.startsWith(DIRTY_BITMAP) ? [[name.slice(DIRTY_BITMAP.length), id] as const] : [],
  );
  return Object.fromEntries(known);
}

/** Whoever stands on the device, or goes through it, is seen by its moment; throws `EBUSY` where somebody else is not. */
function claim(device: NamedDevice): () => void {
  const holder = { name: `a command that reads device ${device.name} as it was` };
  try {
    return claims.take({ claimant: { holder, device }, device, use: "owns" });
  } catch (error) {
    const { code, reason } = toBlockIoError(error, {});
    throw refuse(
      device.name,
      code,
      `cannot be read as it was: ${reason}, past it`,
      "Read the device that both stand on, as it was; or remove the other one first.",
    );
  }
}
