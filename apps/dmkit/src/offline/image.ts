/**
 * Opens the devices of one image and finds out which is which.
 *
 * Invariants:
 *
 * - a device that is not to be written is opened read-only: not even its times change;
 * - the locks are those the server takes, so that nobody works on an image that is being served;
 * - what was opened is closed, whatever goes wrong.
 */
import {
  type BlockDevice,
  type Environment,
  type ImageDevices,
  type ImageFormat,
  done,
  identityOf,
  join,
} from "@dmkit/block-io";
import { openReference } from "../devices.ts";
import { type Recognised, recognise } from "./detect.ts";
import { usage } from "../ui/usage.ts";

/** An image as the command line names it. */
export interface ImageWords {
  /** Paths or URIs; the first says what the image is. */
  readonly devices: readonly string[];
  /** Other devices by role. */
  readonly roles: Readonly<Record<string, string>>;
  /** Name of a format that is not to be found out. */
  readonly type?: string | undefined;
}

export interface OpenOptions {
  readonly formats: readonly ImageFormat[];
  readonly environment: Environment;
  /** Which roles are opened for writing; none unless told otherwise. */
  readonly writes?: (role: string) => boolean;
  /** Required roles may be missing. Default false. */
  readonly partial?: boolean;
}

export interface OpenImage extends Recognised {
  readonly devices: ImageDevices;
  /** What each device was named by. */
  readonly references: Readonly<Record<string, string>>;
}

/**
 * Devices that are open for reading, each once: a server may be there for one client only, and then be gone.
 */
export class OpenedDevices {
  readonly #environment: Environment;
  readonly #devices: Map<string, BlockDevice> = new Map();

  constructor(environment: Environment) {
    this.#environment = environment;
  }

  async read(reference: string): Promise<BlockDevice> {
    const device =
      this.#devices.get(reference) ?? (await openReference(reference, "read", this.#environment));
    this.#devices.set(reference, device);
    return device;
  }

  /** Makes way for whoever opens it for writing. */
  async letGo(reference: string): Promise<void> {
    const device = this.#devices.get(reference);
    this.#devices.delete(reference);
    await device?.close();
  }

  async close(): Promise<void> {
    const devices = [...this.#devices.values()];
    this.#devices.clear();
    await closeAll(devices);
  }
}

/**
 * Runs `work` with an open image. Errors: `EPARSE` for devices that do not make an image, `EFORMAT` for what is not
 * recognised, those of opening.
 * @param given devices that are open already, and stay so.
 */
export async function withImage<T>(
  words: ImageWords,
  options: OpenOptions,
  work: (image: OpenImage) => Promise<T>,
  given?: OpenedDevices,
): Promise<T> {
  refuseTwice([...words.devices, ...Object.values(words.roles)]);
  const opened = given ?? new OpenedDevices(options.environment);
  const written: BlockDevice[] = [];
  const close = async (): Promise<void> => {
    await join([closeAll(written), given === undefined ? opened.close() : done]);
  };
  const open = async (role: string, reference: string): Promise<BlockDevice> => {
    if (options.writes?.(role) !== true) return opened.read(reference);
    await opened.letGo(reference);
    const device = await openReference(reference, "write", options.environment);
    written.push(device);
    return device;
  };
  try {
    const { recognised, references } = await assign(words, options, opened);
    const devices: Record<string, BlockDevice> = {};
    for (const [role, reference] of Object.entries(references)) devices[role] = await open(role, reference);
    const result = await work({ ...recognised, devices, references });
    await close();
    return result;
  } catch (error) {
    await close().catch(() => {});
    throw error;
  }
}

function closeAll(devices: BlockDevice[]): Promise<void> {
  return join(devices.splice(0).map((device) => device.close()));
}

/** Which device has which role; everything is open read-only meanwhile. */
async function assign(
  { devices: words, roles, type }: ImageWords,
  { formats, partial = false }: OpenOptions,
  opened: OpenedDevices,
): Promise<{ recognised: Recognised; references: Record<string, string> }> {
  const [first = "", ...rest] = words;
  const recognised = await recognise(await opened.read(first), formats, type);
  const { format } = recognised;
  const references: Record<string, string> = { [recognised.role]: first };
  const give = (role: string, reference: string): void => {
    if (!format.roles.some(({ name }) => name === role)) {
      throw usage(`${format.name} has no device "${role}"`, `It has: ${rolesOf(format)}.`);
    }
    if (references[role] !== undefined) {
      throw usage(`the ${role} device is given twice: ${references[role]} and ${reference}`, undefined);
    }
    references[role] = reference;
  };
  for (const [role, reference] of Object.entries(roles)) give(role, reference);
  for (const reference of rest) {
    const detected = await format.detect(await opened.read(reference));
    const free = format.roles.find(({ name }) => references[name] === undefined)?.name;
    const role = detected !== undefined && references[detected.role] === undefined ? detected.role : free;
    if (role === undefined) {
      throw usage(
        `${reference}: ${format.name} has no use for another device`,
        `It has: ${rolesOf(format)}.`,
      );
    }
    give(role, reference);
  }
  if (!partial) requireRoles(format, references, first);
  return { recognised, references };
}

export function requireRoles(
  format: ImageFormat,
  given: Readonly<Record<string, string>>,
  first: string,
): void {
  const missing = format.roles.find(({ name, required }) => required && given[name] === undefined);
  if (missing === undefined) return;
  throw usage(
    `${first}: ${format.name} needs its ${missing.name} device, too`,
    `Give it with --${missing.name} DEVICE: ${missing.help}.`,
  );
}

function rolesOf({ roles }: ImageFormat): string {
  return roles.map(({ name }) => name).join(", ");
}

export function refuseTwice(references: readonly string[]): void {
  const seen = new Set<string>();
  for (const reference of references) {
    const identity = identityOf(reference);
    if (seen.has(identity)) throw usage(`${reference} is given twice`, "Each device has one place.");
    seen.add(identity);
  }
}
