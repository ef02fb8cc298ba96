/**
 * The devices at the bottom of a stack, by reference: a path, or a URI whose scheme somebody registered.
 *
 * Invariants:
 *
 * - within one pool, references to the same thing give the same device, opened once for reading and once for writing
 *   at most, so that two segments on one file neither lock each other out nor see each other's writes late;
 * - whoever is given a device has said what it is for, and holds a claim on the bytes it uses (claims.ts) until it
 *   gives them back, the device is closed, or could not be opened.
 */
import { checkSettings } from "../contract/settings.ts";
import {
  type DeviceUse,
  type ByteRange,
  type Claim,
  type Claimant,
  PROGRAM,
  type Use,
  claims,
  isWriting,
  withoutWriting,
} from "./claims.ts";
import type { BlockDevice } from "../contract/device.ts";
import { join } from "../sync/join.ts";
import { FileDevice } from "../devices/file.ts";
import type { Environment } from "../contract/environment.ts";
import { refuse } from "../contract/errors.ts";
import { GuardedDevice } from "../contract/guard.ts";
import { type Health, healthOf, worstHealth } from "../contract/health.ts";
import { builtinSchemes } from "./builtin-schemes.ts";
import { type FilesBelow, fileKey, filesOf, keyOf, openIdentity, replacedFile } from "./files.ts";
import {
  type Entry,
  type Grant,
  type LowerOptions,
  type UseOptions,
  closeEntry,
  isFixed,
  lowerSettings,
  readElsewhere,
  relax,
  requestOf,
  unknownScheme,
  useSettings,
} from "./lower-grants.ts";
import { partitions } from "./kept.ts";
import { PartitionDevice, findPartition } from "./partition.ts";
import { openPath, parsePath } from "./paths.ts";
import { type Access, type DeviceSchemes, schemeOf } from "./schemes.ts";

/** Opens the devices below one device by reference, each once, and claims them. It owns what it opened. */
export class LowerDevices {
  readonly #schemes: DeviceSchemes;
  readonly #environment: Environment;
  readonly #readOnly: boolean;
  readonly #claimant: Claimant;
  readonly #files: FilesBelow | undefined;
  readonly #entries: Set<Entry> = new Set();
  readonly #grants: Set<Grant> = new Set();
  /** Exact references, by those that were asked for and may come to mean something else. */
  readonly pins: Map<string, string> = new Map();

  constructor(schemes: DeviceSchemes, environment: Environment, options: LowerOptions = {}) {
    checkSettings(lowerSettings, options);
    this.#schemes = { ...builtinSchemes, ...schemes };
    this.#environment = environment;
    this.#readOnly = options.readOnly === true;
    this.#files = options.files;
    this.#claimant = { holder: options.holder ?? { name: PROGRAM } };
  }

  /** Says which device uses what was opened: who stands on that device goes through its claims. */
  belongTo(device: BlockDevice): void {
    this.#claimant.device = device;
  }

  /**
   * Opens and claims what will be asked for: before anything is written, all of a table is known to be free. Resolves with the device. Errors: as
   * `open`.
   */
  async prepare(asked: DeviceUse, target?: string): Promise<BlockDevice> {
    const [reference, use, range] = asked;
    return this.#grant(reference, use, { range, target }, requestOf(reference, use, range));
  }

  /** What has been prepared, which stays to be asked for. Throws `EINVAL` for what has not. */
  prepared(...[reference, use, range]: DeviceUse): BlockDevice {
    const request = requestOf(reference, use, range);
    const found = [...this.#grants].find(({ ahead }) => ahead === request);
    if (found !== undefined) return found.claim.device;
    throw refuse(reference, "EINVAL", "is not among what its target uses", undefined);
  }

  /** Opens a reference, or gives the device it is open as. Errors: those of the opener; EBUSY, ENOENT. */
  async open(reference: string, use: Use, options: UseOptions = {}): Promise<BlockDevice> {
    checkSettings(useSettings, options);
    const request = requestOf(reference, use, options.range);
    const prepared = [...this.#grants].find(({ ahead }) => ahead === request);
    if (prepared === undefined) return this.#grant(reference, use, options, undefined);
    prepared.ahead = undefined;
    return prepared.claim.device;
  }

  async #grant(
    reference: string,
    use: Use,
    options: UseOptions,
    ahead: string | undefined,
  ): Promise<BlockDevice> {
    const { range, target } = options;
    const wanted = this.#readOnly ? withoutWriting(use) : use;
    const access = options.access ?? (isWriting(wanted) ? "write" : "read");
    const entry = this.#entryFor(reference, this.#readOnly ? "read" : access);
    entry.users += 1;
    try {
      const device = await entry.device;
      if (device.pinned !== undefined) this.pins.set(reference, device.pinned);
      if (access === "write" && device instanceof FileDevice && !device.tightenLock())
        throw readElsewhere(device);
      const claim: Claim = { claimant: this.#claimant, device, range, use: wanted, target };
      this.#grants.add({ ahead, entry, claim, giveBack: claims.take(claim) });
      return device;
    } catch (error) {
      await this.#leave(entry).catch(() => {});
      throw error;
    }
  }

  /** Opens a reference as a pool of its own does: closing the device gives it back. */
  static async openOne(
    reference: string,
    use: Use,
    schemes: DeviceSchemes,
    environment: Environment,
    options: LowerOptions & UseOptions = {},
  ): Promise<BlockDevice> {
    const { range, target, access, ...rest } = options;
    const pool = new LowerDevices(schemes, environment, rest);
    const device = await pool.open(reference, use, { range, target, access });
    pool.belongTo(device);
    if (device instanceof GuardedDevice) device.whenClosed(() => pool.#giveBackAll());
    else pool.#giveBackAll();
    return device;
  }

  /** The worst of those that are open. */
  health(): Health {
    return worstHealth(this.devices.map(healthOf));
  }

  /** Of those that are open. */
  get files(): FilesBelow {
    return filesOf(this.devices);
  }

  /** Those that are open. */
  get devices(): readonly BlockDevice[] {
    return [...new Set([...this.#grants].map(({ claim }) => claim.device))];
  }

  /** Gives back what `open` gave for this range; a device that nobody else here uses is closed. */
  async release(device: BlockDevice, range?: ByteRange): Promise<void> {
    const grant = this.#find(device, range);
    if (grant === undefined) return;
    this.#grants.delete(grant);
    try {
      await this.#leave(grant.entry);
    } finally {
      grant.giveBack();
    }
  }

  /**
   * What was read is owned from now on: gives what it is written through; both stay open. Errors: those of opening,
   * `EBUSY`, `EROFS`; nothing has changed then.
   */
  async own(reference: string, device: BlockDevice, range?: ByteRange): Promise<BlockDevice> {
    const grant = this.#find(device, range);
    if (grant === undefined || this.#readOnly || (grant.entry.key === undefined && isFixed(device)))
      throw refuse(reference, "EROFS", "can only be read", "Open the stack for writing.");
    const entry = isFixed(device) ? this.#entryFor(reference, "write") : grant.entry;
    if (entry !== grant.entry) entry.users += 1;
    try {
      const writing = await entry.device;
      if (isFixed(writing) || !this.#grants.has(grant))
        throw refuse(reference, "EROFS", "can only be read", "Give what can be written.");
      if (writing instanceof FileDevice && !writing.tightenLock()) throw readElsewhere(writing);
      const claim: Claim = { ...grant.claim, device: writing, use: "owns" };
      grant.giveBack();
      let giveBack: () => void;
      try {
        giveBack = claims.take(claim);
      } catch (error) {
        this.#grants.delete(grant);
        this.#grants.add({ ...grant, giveBack: claims.take(grant.claim) });
        if (entry === grant.entry) this.#relax(entry, writing);
        throw error;
      }
      this.#grants.delete(grant);
      this.#grants.add({ ahead: undefined, entry, claim, giveBack });
      return writing;
    } catch (error) {
      if (entry !== grant.entry) await this.#leave(entry).catch(() => {});
      throw error;
    }
  }

  /** What was opened to be owned is only read from now on, and others may read it, too, also other processes. */
  onlyReads(device: BlockDevice, range?: ByteRange): void {
    const grant = this.#find(device, range);
    if (grant === undefined || grant.claim.use !== "owns") return;
    const claim: Claim = { ...grant.claim, use: "reads" };
    this.#grants.delete(grant);
    grant.giveBack();
    this.#grants.add({ ahead: undefined, entry: grant.entry, claim, giveBack: claims.take(claim) });
    this.#relax(grant.entry, device);
  }

  /** Others may read a file that nobody here writes to any more. */
  #relax(entry: Entry, device: BlockDevice): void {
    const writes = [...this.#grants].some((one) => one.entry === entry && isWriting(one.claim.use));
    if (!writes && device instanceof FileDevice) relax(device, this.#environment);
  }

  /** Closes everything opened so far; every device is closed even if one of them fails. */
  async close(): Promise<void> {
    const entries = [...this.#entries];
    this.#entries.clear();
    try {
      await join(entries.map(closeEntry));
    } finally {
      // Not before: what is closed may still be flushed.
      this.#giveBackAll();
    }
  }

  #giveBackAll(): void {
    for (const { giveBack } of this.#grants) giveBack();
    this.#grants.clear();
  }

  #find(device: BlockDevice, range: ByteRange | undefined): Grant | undefined {
    return [...this.#grants].find(
      ({ claim }) =>
        claim.device === device &&
        claim.range?.offset === range?.offset &&
        claim.range?.length === range?.length,
    );
  }

  /** The last one closes it. */
  async #leave(entry: Entry): Promise<void> {
    entry.users -= 1;
    if (entry.users > 0 || !this.#entries.delete(entry)) return;
    try {
      await closeEntry(entry);
    } finally {
      // Its lock stood in for that of a reader.
      const reader = entry.access === "write" ? this.#known(entry.key, "read") : undefined;
      const device = await reader?.device.catch(() => undefined);
      if (device instanceof FileDevice) device.lockShared();
    }
  }

  /** @param access what it has to be open for; open for writing is open for reading. */
  #entryFor(reference: string, access: Access): Entry {
    const key = keyOf(reference);
    const known = this.#known(key, "write") ?? (access === "read" ? this.#known(key, "read") : undefined);
    if (known !== undefined) return known;
    const device = this.#openNew(reference, access, this.#known(key, "read"));
    device.catch(() => {});
    const entry = { key, access, device, users: 0 };
    this.#entries.add(entry);
    return entry;
  }

  #known(key: string | undefined, access: Access): Entry | undefined {
    if (key === undefined) return undefined;
    return [...this.#entries].find((entry) => entry.key === key && entry.access === access);
  }

  async #openNew(reference: string, access: Access, reader: Entry | undefined): Promise<BlockDevice> {
    const scheme = schemeOf(reference);
    if (scheme === undefined) {
      const { partition } = parsePath(reference);
      const device =
        partition === undefined
          ? await this.#openFile(reference, access, await reader?.device)
          : await openPartition(reference, partition, access, this.#environment, this.#claimant);
      const before = this.#files?.get(fileKey(reference));
      if (before === undefined || before === openIdentity(device)) return device;
      await device.close();
      throw replacedFile(reference);
    }
    const opener = Object.hasOwn(this.#schemes, scheme) ? this.#schemes[scheme] : undefined;
    if (opener === undefined) {
      throw unknownScheme(reference, scheme, Object.keys(this.#schemes));
    }
    return opener(reference, access, this.#environment);
  }

  #openFile(reference: string, access: Access, beside: BlockDevice | undefined): Promise<BlockDevice> {
    return openPath(reference, {
      readOnly: access === "read",
      environment: this.#environment,
      beside: beside instanceof FileDevice ? beside : undefined,
      holder: this.#claimant.holder,
    });
  }
}

/** Files of which only partitions are open: one that is, is so once, whoever has them. */
const wholes = new WeakMap<Environment, LowerDevices>();

async function openPartition(
  reference: string,
  number: number,
  access: Access,
  environment: Environment,
  claimant: Claimant,
): Promise<BlockDevice> {
  const { path, raw, lock } = parsePath(reference);
  const pool = wholes.get(environment) ?? new LowerDevices({}, environment, { holder: partitions });
  wholes.set(environment, pool);
  // Claims are those of the partitions.
  const words = [...(raw ? ["raw"] : []), ...(lock ? [] : ["no-lock"])].join("&");
  const whole = await pool.open(words === "" ? path : `${path}?${words}`, "looks", { access });
  try {
    const found = await findPartition(whole, reference, number);
    const device = new PartitionDevice(whole, found, reference, access, () => pool.release(whole));
    if (lock) device.lock(claimant);
    return device;
  } catch (error) {
    await pool.release(whole);
    throw error;
  }
}
