/**
 * `format`: makes a new image.
 *
 * Invariants: it is tried out in memory first, so that wrong options or sizes change nothing; devices that are not
 * written then are not opened for writing; those that are must be blank, and those that are cached be no caches, unless
 * somebody insists; and what a format refuses before it writes has written nothing, old signatures included, though
 * there was not the memory to try all of it.
 */
import {
  type BlockDevice,
  BlockIoError,
  type ImageDevices,
  type ImageFormat,
  LinearDevice,
  type OfflineWork,
  type WriteZeroesOptions,
  codeOf,
  eraseSignatures,
  parseOptions,
} from "@dmkit/block-io";
import { requireNewFile } from "../destination.ts";
import { tryOut } from "./dump.ts";
import { refuseCaches, refuseContents } from "./protect.ts";
import { withRoles } from "./roles.ts";
import { withImageUndo } from "./undo/session.ts";
import { usage } from "../ui/usage.ts";

export interface FormatRequest {
  readonly format: ImageFormat;
  readonly references: Readonly<Record<string, string>>;
  readonly options: Readonly<Record<string, string>>;
  readonly force: boolean;
  readonly undo?: string | undefined;
}

/** The roles that were written. Errors: `EPARSE` (options), `EEXIST` (something is there), those of the format. */
export async function formatImage(
  { format, references, options, force, undo }: FormatRequest,
  formats: readonly ImageFormat[],
  work: OfflineWork,
): Promise<ReadonlySet<string>> {
  const { name } = format;
  if (format.format === undefined) throw new BlockIoError(`${name} cannot be formatted`, { code: "ENOTSUP" });
  if (format.formatOptions !== undefined) parseOptions(format.formatOptions, options, "--option");
  if (undo !== undefined) requireNewFile(undo);
  const { environment } = work;
  const keeps = format.keepsImage?.(options) === true;
  const make = (devices: ImageDevices, how: OfflineWork): Promise<void> | undefined =>
    format.format?.(force && !keeps ? erasedFirst(devices) : devices, options, how);
  const roles = await withRoles(
    references,
    () => false,
    environment,
    async (devices) => {
      refuseEmpty(devices);
      const written = await rolesWritten(devices, async (copies) =>
        make(copies, { environment, signal: work.signal }),
      );
      if (!force) {
        // What goes on from an image refuses everything that is none.
        const lost = format.roles.flatMap(({ name, overwritten }) => (overwritten === true ? name : []));
        if (!keeps) await refuseContents(devices, new Set([...written, ...lost]), formats);
        await refuseCaches(devices, format);
      }
      return written;
    },
  );
  await withRoles(
    references,
    (role) => roles.has(role),
    environment,
    (devices) =>
      withImageUndo(undo, `format ${name}`, { devices, references }, roles, environment, async (given) => {
        await make(given, work);
        for (const role of roles) await given[role]?.flush();
      }),
  );
  return roles;
}

function erasedFirst(devices: ImageDevices): ImageDevices {
  const wrapped = Object.entries(devices).map(([role, device]) => [role, new ErasedFirst(device)]);
  return Object.fromEntries(wrapped) as ImageDevices;
}

/** Before it is written for the first time, what it says of old contents is erased. */
class ErasedFirst extends LinearDevice {
  readonly #below: BlockDevice;
  #erased: Promise<void> | undefined;

  constructor(below: BlockDevice) {
    super(below, 0, below.size, below.name);
    this.#below = below;
  }

  protected override async doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    await this.#erase();
    return super.doWrite(offset, from, fua);
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    await this.#erase();
    return super.doDiscard(offset, length);
  }

  protected override async doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    await this.#erase();
    return super.doWriteZeroes(offset, length, options);
  }

  #erase(): Promise<void> {
    this.#erased ??= eraseSignatures(this.#below);
    return this.#erased;
  }
}

/** All of them where it takes too much memory to find out. */
async function rolesWritten(
  devices: ImageDevices,
  make: (copies: ImageDevices) => Promise<void>,
): Promise<ReadonlySet<string>> {
  try {
    return await tryOut(devices, make);
  } catch (error) {
    if (codeOf(error) !== "ENOMEM") throw error;
    return new Set(Object.keys(devices));
  }
}

function refuseEmpty(devices: ImageDevices): void {
  for (const { name, size } of Object.values(devices)) {
    if (size > 0) continue;
    throw new BlockIoError("is empty (0 bytes)", {
      code: "EINVAL",
      device: name,
      hint: "Give it a size first: truncate -s 1G FILE",
    });
  }
}

/** `name=value` words as options. Throws `EPARSE`. */
export function optionWords(words: readonly string[]): Record<string, string> {
  const options: Record<string, string> = {};
  for (const word of words) {
    const at = word.indexOf("=");
    if (at <= 0) throw usage(`--option ${word}: expected name=value`, undefined);
    const name = word.slice(0, at);
    if (Object.hasOwn(options, name)) throw usage(`--option ${name} is given twice`, undefined);
    options[name] = word.slice(at + 1);
  }
  return options;
}
