/**
 * The devices at the bottom of a stack, by reference: a path, or a URI whose scheme somebody registered.
 *
 * Invariant: within one pool, references to the same thing give the same device, opened once and closed once,
 * so that two segments on one file neither lock each other out nor see each other's writes late.
 */
import { realpathSync } from "node:fs";
import type { BlockDevice } from "./device.ts";
import { ZeroDevice } from "./devices/zero.ts";
import { openFile } from "./devices/file-open.ts";
import { MemoryDevice } from "./devices/memory.ts";
import type { Environment } from "./environment.ts";
import { BlockIoError } from "./errors.ts";
import { type Health, healthOf, worstHealth } from "./health.ts";
import { parseSize } from "./size.ts";

export type Access = "read" | "write";

/** Opens what stands behind a reference. */
export type DeviceOpener = (
  reference: string,
  access: Access,
  environment: Environment,
) => Promise<BlockDevice>;

/** Openers by URI scheme (`mem`, `null`, `nbd`, `nbd+unix`, …). */
export type DeviceSchemes = Readonly<Record<string, DeviceOpener>>;

// What `null:` without a size has: the most a table can map, in whole 4 KiB blocks.
const LARGEST = 2 ** 53 - 4096;

/** `mem:64M` is a RAM disk, `null:1G` (or `null:`) reads as zeroes and forgets writes. */
export const builtinSchemes: DeviceSchemes = {
  async mem(reference) {
    return new MemoryDevice(wholeSectors(reference, parseSize(afterColon(reference))), { name: reference });
  },
  async null(reference) {
    const text = afterColon(reference);
    return new ZeroDevice(wholeSectors(reference, text === "" ? LARGEST : parseSize(text)), reference);
  },
};

/** The scheme of a URI, or undefined for a path. One-letter schemes do not exist: `c:` would be a path. */
export function schemeOf(reference: string): string | undefined {
  return /^([a-z][a-z0-9+.-]+):/i.exec(reference)?.[1]?.toLowerCase();
}

export class LowerDevices {
  readonly #schemes: DeviceSchemes;
  readonly #environment: Environment;
  readonly #opened = new Set<BlockDevice>();
  readonly #open = new Map<string, { access: Access; device: Promise<BlockDevice> }>();

  constructor(schemes: DeviceSchemes, environment: Environment) {
    this.#schemes = { ...builtinSchemes, ...schemes };
    this.#environment = environment;
  }

  /** Opens a reference, or gives the device it is open as. Errors: those of the opener; EBUSY, ENOENT. */
  open(reference: string, access: Access): Promise<BlockDevice> {
    const key = identityOf(reference);
    const known = this.#open.get(key);
    if (known !== undefined) {
      if (access === "read" || known.access === "write") return known.device;
      throw new BlockIoError("is used read-only elsewhere in this stack", {
        code: "EBUSY",
        device: reference,
        op: "open",
        hint: "Name it first where it is written, or use another device.",
      });
    }
    const device = this.#openNew(reference, access);
    device.then(
      (opened) => this.#opened.add(opened),
      () => {},
    );
    // Several RAM disks of one size are several devices; everything else is one thing under one name.
    const own = schemeOf(reference) === "mem" || schemeOf(reference) === "null";
    const name = own ? `${key}#${this.#open.size}` : key;
    this.#open.set(name, { access, device });
    // What could not be opened may be there the next time.
    device.catch(() => this.#open.delete(name));
    return device;
  }

  /** The worst of those that are open. */
  health(): Health {
    return worstHealth([...this.#opened].map(healthOf));
  }

  /** Closes everything opened so far; every device is closed even if one of them fails. */
  async close(): Promise<void> {
    const devices = [...this.#open.values()];
    this.#open.clear();
    this.#opened.clear();
    const results = await Promise.allSettled(
      devices.map(async ({ device }) => {
        // What could not be opened was reported then.
        const opened = await device.catch(() => undefined);
        await opened?.close();
      }),
    );
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }

  async #openNew(reference: string, access: Access): Promise<BlockDevice> {
    const scheme = schemeOf(reference);
    if (scheme === undefined) {
      return openFile(reference, { readOnly: access === "read", environment: this.#environment });
    }
    const opener = Object.hasOwn(this.#schemes, scheme) ? this.#schemes[scheme] : undefined;
    if (opener === undefined) {
      throw new BlockIoError(`nobody knows how to open "${scheme}:"`, {
        code: "ENOENT",
        device: reference,
        op: "open",
        hint: `Known schemes: ${Object.keys(this.#schemes).join(", ")}. Write ./ before a path that looks like one.`,
      });
    }
    return opener(reference, access, this.#environment);
  }
}

function identityOf(reference: string): string {
  if (schemeOf(reference) !== undefined) return reference;
  try {
    return realpathSync(reference);
  } catch {
    return reference;
  }
}

function afterColon(reference: string): string {
  return reference.slice(reference.indexOf(":") + 1);
}

function wholeSectors(reference: string, size: number): number {
  if (size > 0 && size % 512 === 0) return size;
  throw new BlockIoError(`${size} bytes are not a positive number of 512-byte sectors`, {
    code: "EINVAL",
    device: reference,
    op: "open",
    hint: "Give a size such as 64M.",
  });
}
