/** For targets that keep what is written to a device in files of their own, so that the device stays as it is. */
import type { BlockDevice } from "../contract/device.ts";
import type { Environment } from "../contract/environment.ts";
import type { ImageDevices } from "./image.ts";

/** How a target keeps what is written to a device in files of its own. */
export interface Overlay {
  /** The files by what they are for, in the order of a command line, and how each ends that is made from one name. */
  readonly files: Readonly<Record<string, string>>;
  /** Makes an overlay of new files over a device: all of them, or none. Errors: `EEXIST`, those of the files. */
  make(files: Readonly<Record<string, string>>, base: BlockDevice, environment: Environment): Promise<void>;
  /** Throws `EFORMAT` for files that are no overlay over this device, or one that cannot be written. */
  open(files: ImageDevices, base: BlockDevice, environment: Environment): Promise<BlockDevice>;
  /** The words of a table, behind the target's name, that show the device with its overlay. */
  words(files: Readonly<Record<string, string>>, base: string): readonly string[];
}
