/**
 * An export: a device under a name, with what clients are told about it and what they did with it.
 *
 * Invariant: whatever changes the device goes through the one {@link ByteAccess} of that device, however many
 * exports and connections it has; otherwise a read-modify-write could undo somebody's write.
 */
import { type BlockDevice, ByteAccess, type SettingsTable, checkSettings, setting } from "@dmkit/block-io";
import { type BlockSizes, FLAG, MAX_STRING, DEFAULT_PREFERRED_BLOCK } from "../../protocol.ts";
import { invalid } from "../limits.ts";
import { Access, type AccessOptions, type Peer, accessSettings } from "./access.ts";
import { type MetaContext, baseAllocation } from "./meta-contexts.ts";
import { Statistics } from "./statistics.ts";

/** How a device is offered. */
export interface ExportOptions extends AccessOptions {
  /** What clients ask for; at most 4096 bytes of UTF-8, may be empty. */
  readonly name: string;
  /** Stays the caller's: the server never closes it. */
  readonly device: BlockDevice;
  /** For people; at most 4096 bytes of UTF-8. */
  readonly description?: string | undefined;
  /** Refuse writes even if the device would take them. */
  readonly readOnly?: boolean | undefined;
  /** Refuse requests that are not aligned to the device's logical blocks, instead of reading and modifying. */
  readonly strict?: boolean | undefined;
  /** Clients at a time, 1 or more; no limit of its own by default. */
  readonly maxConnections?: number | undefined;
  /** In addition to `base:allocation`; a function gives those that there are when a client asks for them. */
  readonly metaContexts?: readonly MetaContext[] | (() => readonly MetaContext[]) | undefined;
}

const exportSettings: SettingsTable<ExportOptions> = {
  ...accessSettings,
  name: setting.needed(setting.anyText),
  device: setting.needed(setting.device),
  description: setting.anyText,
  readOnly: setting.flag,
  strict: setting.flag,
  maxConnections: setting.integer(1, Number.MAX_SAFE_INTEGER),
  metaContexts: setting.either(setting.as("a list", Array.isArray), setting.call),
};

/**
 * How an export goes away.
 * `safe`: only if nobody uses it (`EBUSY` otherwise).
 * `hide`: new clients do not find it, present ones go on as long as they like.
 * `soft`: as `hide`, and present clients get `ESHUTDOWN` for every further request.
 * `hard`: as `hide`, and present clients are disconnected.
 */
export type RemovalMode = (typeof removalModes)[number];

export const removalModes = ["safe", "hide", "soft", "hard"] as const;

/** A client of an export, as the export sees it. */
export interface ExportClient {
  drop(reason: string): void;
}

const accessOfDevice = new WeakMap<BlockDevice, ByteAccess>();

function accessOf(device: BlockDevice): ByteAccess {
  let access = accessOfDevice.get(device);
  if (access === undefined) {
    access = new ByteAccess(device);
    accessOfDevice.set(device, access);
  }
  return access;
}

export class Export {
  readonly name: string;
  readonly description: string;
  readonly device: BlockDevice;
  readonly access: ByteAccess;
  readonly readOnly: boolean;
  readonly strict: boolean;
  readonly maxConnections: number;
  readonly policy: Access;
  readonly #metaContexts: ExportOptions["metaContexts"];
  readonly statistics: Statistics = new Statistics();
  readonly clients: Set<ExportClient> = new Set();
  /** Requests are answered with `ESHUTDOWN`. */
  stopping = false;
  /** Requests carried out at present. */
  #inFlight = 0;
  #unused: (() => void)[] = [];

  /** Throws `EINVAL` for names and descriptions that cannot be sent, and for a limit that lets nobody in. */
  constructor(options: ExportOptions) {
    const { allow, identities, writers, hidden } = checkSettings(exportSettings, options, "listen");
    this.name = checkedText(options.name, "export name");
    this.description = checkedText(options.description ?? "", "description");
    this.device = options.device;
    this.access = accessOf(options.device);
    this.readOnly = options.readOnly === true || options.device.limits.capabilities.readOnly;
    this.strict = options.strict === true;
    this.policy = new Access({ allow, identities, writers, hidden });
    this.maxConnections = options.maxConnections ?? Number.POSITIVE_INFINITY;
    this.#metaContexts = options.metaContexts;
  }

  /** Those there are now. */
  get metaContexts(): readonly MetaContext[] {
    const more = this.#metaContexts ?? [];
    return [baseAllocation, ...(typeof more === "function" ? more() : more)];
  }

  get full(): boolean {
    return this.clients.size >= this.maxConnections;
  }

  /** Whether it is there for a client. */
  isFor(peer: Peer): boolean {
    return this.policy.allows(peer) && peer.entrance?.allows(peer) !== false;
  }

  /** Whether writes of a client are refused. */
  isReadOnlyFor(peer: Peer): boolean {
    return this.readOnly || !this.policy.allowsWrites(peer) || peer.entrance?.allowsWrites(peer) === false;
  }

  /**
   * @param readOnly whether the client's writes are refused.
   * @param structured whether structured replies were negotiated.
   * @param connections the most the server takes at a time.
   */
  transmissionFlags(readOnly: boolean, structured: boolean, connections: number): number {
    const { capabilities } = this.device.limits;
    let flags: number = FLAG.HAS_FLAGS | FLAG.SEND_FLUSH | FLAG.SEND_FUA | FLAG.SEND_CACHE;
    // One device object serves all connections, so a flush on one covers what was written on all. But who is told so
    // opens several at once, and must not be refused the second.
    if (Math.min(connections, this.maxConnections) > 1) flags |= FLAG.CAN_MULTI_CONN;
    if (structured) flags |= FLAG.SEND_DF;
    if (readOnly) return flags | FLAG.READ_ONLY;
    flags |= FLAG.SEND_WRITE_ZEROES;
    if (capabilities.discard !== "none") flags |= FLAG.SEND_TRIM;
    if (capabilities.fastZero) flags |= FLAG.SEND_FAST_ZERO;
    return flags;
  }

  /** @param maximumPayload bytes; the server's limit. */
  blockSizes(maximumPayload: number): BlockSizes {
    const { logicalBlockSize, physicalBlockSize } = this.device.limits;
    const minimum = this.strict ? logicalBlockSize : 1;
    const preferred = Math.max(DEFAULT_PREFERRED_BLOCK, physicalBlockSize, minimum);
    return { minimum, preferred: Math.min(preferred, maximumPayload), maximumPayload };
  }

  began(): void {
    this.#inFlight += 1;
  }

  ended(): void {
    this.#inFlight -= 1;
    this.#wake();
  }

  joined(client: ExportClient): void {
    this.clients.add(client);
  }

  left(client: ExportClient): void {
    this.clients.delete(client);
    this.#wake();
  }

  /** Resolves when no client is left and no request is being carried out. */
  unused(): Promise<void> {
    return new Promise((resolve) => {
      this.#unused.push(resolve);
      this.#wake();
    });
  }

  #wake(): void {
    if (this.#unused.length === 0 || this.#inFlight > 0 || this.clients.size > 0) return;
    for (const resolve of this.#unused.splice(0)) resolve();
  }
}

function checkedText(text: string, what: string): string {
  if (Buffer.byteLength(text) <= MAX_STRING && !text.includes("\0")) return text;
  throw invalid(`${what} is longer than ${MAX_STRING} bytes, or contains a NUL`, "Give a shorter text.");
}
