/**
 * `format`: makes a new image.
 *
 * Invariants: it is tried out in memory first, so that wrong options or sizes change nothing; devices that are not
 * written then are not opened for writing; and those that are must be blank, and those that are cached be no
 * caches, unless somebody insists.
 */
import {
  type BlockDevice,
  BlockIoError,
  type ImageDevices,
  type ImageFormat,
  type OfflineWork,
  codeOf,
  eraseSignatures,
  parseOptions,
} from "@dmkit/block-io";
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
  const make = format.format?.bind(format);
  if (make === undefined) throw new BlockIoError(`${format.name} cannot be formatted`, { code: "ENOTSUP" });
  if (format.formatOptions !== undefined) parseOptions(format.formatOptions, options, "--option");
  const { environment } = work;
  const keeps = format.keepsImage?.(options) === true;
  const roles = await withRoles(
    references,
    () => false,
    environment,
    async (devices) => {
      refuseEmpty(devices);
      const written = await rolesWritten(devices, (copies) =>
        make(copies, options, { environment, signal: work.signal }),
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
      withImageUndo(
        undo,
        `format ${format.name}`,
        { devices, references },
        roles,
        environment,
        async (given) => {
          if (force && !keeps) for (const device of writtenOf(given, roles)) await eraseSignatures(device);
          await make(given, options, work);
          for (const device of writtenOf(given, roles)) await device.flush();
        },
      ),
  );
  return roles;
}

function writtenOf(devices: ImageDevices, roles: ReadonlySet<string>): BlockDevice[] {
  return [...roles].flatMap((role) => devices[role] ?? []);
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
