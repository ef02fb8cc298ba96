/** What a pool of lower devices (lower-devices.ts) is told, what it keeps of each that is open, and what it refuses. */
import { didYouMean } from "../bytes/text.ts";
import type { BlockDevice } from "../contract/device.ts";
import type { Environment } from "../contract/environment.ts";
import { refuse } from "../contract/errors.ts";
import { type SettingsTable, setting } from "../contract/settings.ts";
import type { FileDevice } from "../devices/file.ts";
import type { ByteRange, Claim, Holder, Use } from "./claims.ts";
import type { FilesBelow } from "./files.ts";
import type { Access } from "./schemes.ts";

/** How devices below are opened, all of them. */
export interface LowerOptions {
  /** Open everything read-only, whatever it is for. Default false. */
  readonly readOnly?: boolean;
  /** What has to stand behind these paths, where they are opened; `ENOENT` where something else does. */
  readonly files?: FilesBelow | undefined;
  /** For messages. */
  readonly holder?: Holder;
}

/** How one device below is used. */
export interface UseOptions {
  /** Bytes that are used; left out: all of the device. */
  readonly range?: ByteRange | undefined;
  /** Name of the target, for messages. */
  readonly target?: string | undefined;
  /** What it is opened for, where its use does not say so: somebody else has the claim. */
  readonly access?: Access | undefined;
}

/** What each takes. */
export const lowerSettings: SettingsTable<LowerOptions> = {
  readOnly: setting.flag,
  files: setting.object,
  holder: setting.object,
};
/** What each takes. */
export const useSettings: SettingsTable<UseOptions> = {
  range: setting.object,
  target: setting.text,
  access: setting.choice("read", "write"),
};

/** A device that is open once, however many use it. */
export interface Entry {
  /** Undefined for what is another device every time. */
  readonly key: string | undefined;
  readonly access: Access;
  readonly device: Promise<BlockDevice>;
  /** Who has it, or waits for it. */
  users: number;
}

/** What somebody was given. */
export interface Grant {
  /** What it is for, until somebody who asks for just that is given it. */
  ahead: string | undefined;
  readonly entry: Entry;
  readonly claim: Claim;
  readonly giveBack: () => void;
}

/** Whether nothing can be written through it. */
export function isFixed({ limits }: BlockDevice): boolean {
  return limits.capabilities.readOnly;
}

/** The refusal of a file that another process has open for reading. */
export function readElsewhere({ name }: BlockDevice): Error {
  return refuse(
    name,
    "EBUSY",
    "another process reads it",
    "Wait for it to end; see who does with: fuser -v FILE",
  );
}

/** Closes what was opened. */
export async function closeEntry({ device }: Entry): Promise<void> {
  // What could not be opened was reported then.
  const opened = await device.catch(() => undefined);
  await opened?.close();
}

/** What is asked for, to be compared. */
export function requestOf(reference: string, use: Use, range: ByteRange | undefined): string {
  return JSON.stringify([reference, use, range?.offset, range?.length]);
}

/** The refusal of a URI whose scheme nobody has registered. */
export function unknownScheme(reference: string, scheme: string, known: readonly string[]): Error {
  return refuse(
    reference,
    "ENOENT",
    `nobody knows how to open "${scheme}:"`,
    `${didYouMean(scheme, known)}Known schemes: ${known.join(", ")}. Write ./ before a path that looks like one.`,
  );
}

/** Lets others read a file that is not written to any more. What has gone wrong is logged. */
export function relax(device: FileDevice, { logger }: Environment): void {
  if (device.relaxLock()) return;
  logger.log("error", "another process has locked what is only read from now on", {
    device: device.name,
    hint: "If it writes to it, what stands on it is wrong: see who does with fuser -v FILE, and check it.",
  });
}
