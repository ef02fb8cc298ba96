/**
 * Devices on their way out, and all else that has to be over before the server may end.
 *
 * Storage that does not answer keeps a device from ever being closed. So that nobody waits for that in vain:
 *
 * - whatever is being opened or closed is known here until it is over, also when nobody waits for it any more, so
 *   that the end of the server waits for it, within its deadline, and can name it;
 * - devices are closed after all that stand on them, and none waits for another that has nothing to do with it;
 * - one that cannot save what it has, for want of space, comes back, unless it is to be closed whatever is lost;
 * - a device that is given up is closed behind the scenes: no request reaches it, its name is free, and what it has
 *   open stays open until its storage answers or the process ends.
 */
import { BlockIoError, type Environment, type Logger, shellQuote, isLossless } from "@dmkit/block-io";
import { refersTo } from "./references.ts";
import type { DeviceDirectory } from "./device-directory.ts";
import type { ManagedDevice } from "./device/managed-device.ts";

interface Departure {
  readonly managed: ManagedDevice;
  /** Its name and its table when it began to leave. */
  readonly name: string;
  readonly table: string;
  readonly over: Promise<void>;
  /** Gives its name back early. */
  readonly freeName: () => void;
}

export class Departures {
  readonly #directory: DeviceDirectory;
  readonly #logger: Logger;
  readonly #underWay: Set<Promise<unknown>> = new Set();
  readonly #leaving: Map<ManagedDevice, Departure> = new Map();

  constructor(directory: DeviceDirectory, { logger }: Environment) {
    this.#directory = directory;
    this.#logger = logger;
  }

  /** Names of devices that are being closed, those that were given up as well. */
  get names(): readonly string[] {
    return [...this.#leaving.values()].map(({ name }) => name);
  }

  /** A device that is being closed under this name. */
  named(name: string): ManagedDevice | undefined {
    return [...this.#leaving.values()].findLast((departure) => departure.name === name)?.managed;
  }

  /** An error of opening; where a file is still locked by a device that is being closed it says so. */
  namingHolder(error: unknown): unknown {
    if (!(error instanceof BlockIoError) || error.code !== "EBUSY" || error.device === undefined)
      return error;
    const path = error.device;
    const holder = [...this.#leaving.values()].find(({ table }) =>
      refersTo(table, path, this.#directory.targets),
    );
    if (holder === undefined) return error;
    return new BlockIoError(`is in use by device ${holder.name}, which was removed and is not closed yet`, {
      code: "EBUSY",
      device: path,
      op: error.op,
      cause: error,
      hint: "It is closed as soon as its storage answers; otherwise end the server.",
    });
  }

  /** The end of the server waits for it. */
  track<T>(work: Promise<T>): Promise<T> {
    this.#underWay.add(work);
    const over = (): void => void this.#underWay.delete(work);
    work.then(over, over);
    return work;
  }

  /**
   * Takes a device out of the directory and closes it; its name is not given to another before that is over.
   * @param keepsData puts it back in place of losing what it cannot save; that error says so.
   */
  close(managed: ManagedDevice, { keepsData = false }: { readonly keepsData?: boolean } = {}): Promise<void> {
    const already = this.#leaving.get(managed);
    if (already !== undefined) return already.over;
    const { name } = managed;
    const table = this.#directory.tableOf(managed);
    this.#directory.delete(managed);
    const freeName = this.#directory.reserve(name);
    const closing = async (): Promise<void> => {
      if (keepsData) {
        await keepIfLosing(managed).catch((error: unknown) => {
          this.#directory.add(managed);
          throw error;
        });
      }
      await closeTable(managed);
    };
    const over = this.track(closing()).finally(() => {
      this.#leaving.delete(managed);
      freeName();
    });
    this.#leaving.set(managed, { managed, name, table, over, freeName });
    return over;
  }

  /**
   * Does not wait for a device any more that is being closed, or that cannot even begin to be: something it was told
   * before does not end.
   */
  giveUp(managed: ManagedDevice): void {
    const { name } = managed;
    managed.device.refuse();
    this.close(managed).then(
      () => this.#logger.log("info", "a device that was given up is closed now", { device: name }),
      (error: unknown) => {
        const { message } = error as Error;
        this.#logger.log("warn", "closing a device that was given up failed", { device: name, message });
      },
    );
    this.#leaving.get(managed)?.freeName();
    this.#logger.log("warn", "a device was given up: its storage does not answer", { device: name });
  }

  /**
   * Closes everything; throws the first failure when all is over.
   * @param ready what a device has to go through before it is closed.
   */
  async closeAll(ready: (managed: ManagedDevice) => Promise<void>): Promise<void> {
    const failures: unknown[] = [];
    const closings = new Map<ManagedDevice, Promise<void>>();
    const closing = (managed: ManagedDevice): Promise<void> => {
      const known =
        closings.get(managed) ??
        ready(managed)
          .catch(() => {})
          .then(() => this.#closeAfterOwners(managed, closing));
      closings.set(managed, known);
      return known;
    };
    const told = (results: readonly PromiseSettledResult<unknown>[]): void =>
      void failures.push(...results.flatMap((one) => (one.status === "rejected" ? [one.reason] : [])));
    // Those that are being opened or closed already; their failures are told to who asked for it.
    await Promise.all([
      Promise.allSettled(this.#directory.all.map(closing)).then(told),
      Promise.allSettled(this.#underWay),
    ]);
    // What was being opened meanwhile is refused at the end, and closed by who opened it.
    told(await Promise.allSettled(this.#directory.all.map(closing)));
    if (failures.length > 0) throw failures[0];
  }

  async #closeAfterOwners(
    managed: ManagedDevice,
    close: (managed: ManagedDevice) => Promise<void>,
  ): Promise<void> {
    // There are no circles; a device that was not given back in order is waited for once.
    const waited = new Set<ManagedDevice>();
    for (;;) {
      const owners = managed.owners.filter((owner) => !waited.has(owner));
      if (owners.length === 0) break;
      for (const owner of owners) waited.add(owner);
      await Promise.allSettled(owners.map(close));
    }
    await managed.inTurn(() => this.close(managed));
  }
}

async function closeTable(managed: ManagedDevice): Promise<void> {
  managed.changing = true;
  await managed.quiesce();
  await managed.device.close();
}

/**
 * Throws if closing a device would lose what it still has, for want of space, say; it goes on then. What is lost
 * already keeps nobody from closing it.
 */
async function keepIfLosing({ device, name }: ManagedDevice): Promise<void> {
  const wasHeld = device.held;
  try {
    await device.suspend();
    await device.secure();
  } catch (error) {
    // One that was given up meanwhile is closed whatever is lost.
    if (!isLossless(error) || device.closed) return;
    if (!wasHeld) await device.resume();
    const { code, op, reason, hint } = error;
    const where = error.device === undefined || error.device === name ? "" : `${error.device}: `;
    throw new BlockIoError(`${where}${reason}; the device stays, with all it has`, {
      code,
      device: name,
      op,
      cause: error,
      hint: `${hint ?? "Make room, and try again."} Or lose it: dmkit remove --force ${shellQuote(name)}`,
    });
  }
}
