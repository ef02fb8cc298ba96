/**
 * Where things are in a store. Numbers in keys have 16 digits, so that a listing is in their order.
 *
 *     disks/<name>/disk               what the disk is and holds at the beginning; created once
 *     disks/<name>/epoch/<E>          who writes in epoch E = 1, 2, 3 …; created if absent, never removed
 *     disks/<name>/log/<E>/<n>        n = 0, 1, 2 …: a log object, or the fence that ends the epoch; created if absent.
 *                                     A fence is never removed
 *     disks/<name>/base/<E>-<n>       a checkpoint: the image that equals the disk after log object (E, n)
 *     disks/<name>/keep/<name>        a moment to keep
 *
 * The images of checkpoints are versions of the image <name> in the same store, each with a tag of its own.
 */
import { BlockIoError } from "@dmkit/block-io";
import { isName } from "@dmkit/image";

/** A log object, or the place of one. That before the first is epoch 0, n 0: what the disk held at the beginning. */
export interface Position {
  readonly epoch: number;
  readonly n: number;
}

/** What the disk held at the beginning. */
export const BEGINNING: Position = { epoch: 0, n: 0 };

/** Whether `a` comes before `b`. */
export function isBefore(a: Position, b: Position): boolean {
  return a.epoch < b.epoch || (a.epoch === b.epoch && a.n < b.n);
}

/** Whether they are the same place. */
export function isSame(a: Position, b: Position): boolean {
  return a.epoch === b.epoch && a.n === b.n;
}

/** Whether `position` is behind `after`, and not behind `last`. */
export function isWithin(position: Position, after: Position, last: Position): boolean {
  return isBefore(after, position) && !isBefore(last, position);
}

export const DISKS = "disks/";

/** Throws `EINVAL` for what no disk can be called. @param what disk, or moment. */
export function requireName(what: "disk" | "moment", text: string): string {
  if (typeof text === "string" && isName(text)) return text;
  throw new BlockIoError(`${JSON.stringify(text)} is no name of a ${what}`, {
    code: "EINVAL",
    hint: "Names have 1 to 128 of a-z, 0-9 and, between these, . _ -",
  });
}

function prefixOf(disk: string): string {
  return `${DISKS}${requireName("disk", disk)}/`;
}

export function diskKey(disk: string): string {
  return `${prefixOf(disk)}disk`;
}

/** The disk whose {@link diskKey} it is; undefined for another key. */
export function diskOfKey(key: string): string | undefined {
  const [top, disk = "", rest, more] = key.split("/");
  return `${top}/` === DISKS && rest === "disk" && more === undefined && isName(disk) ? disk : undefined;
}

export function epochPrefix(disk: string): string {
  return `${prefixOf(disk)}epoch/`;
}

export function epochKey(disk: string, epoch: number): string {
  return `${epochPrefix(disk)}${digits(epoch)}`;
}

/** Of the logs of all epochs: a listing is in their order. */
export function logsPrefix(disk: string): string {
  return `${prefixOf(disk)}log/`;
}

export function logPrefix(disk: string, epoch: number): string {
  return `${logsPrefix(disk)}${digits(epoch)}/`;
}

export function logKey(disk: string, { epoch, n }: Position): string {
  return `${logPrefix(disk, epoch)}${digits(n)}`;
}

export function checkpointPrefix(disk: string): string {
  return `${prefixOf(disk)}base/`;
}

export function checkpointKey(disk: string, { epoch, n }: Position): string {
  return `${checkpointPrefix(disk)}${digits(epoch)}-${digits(n)}`;
}

/** The tag of the image of a checkpoint. */
export function checkpointTag({ epoch, n }: Position): string {
  return `checkpoint-${epoch}-${n}`;
}

export function keepPrefix(disk: string): string {
  return `${prefixOf(disk)}keep/`;
}

export function keepKey(disk: string, name: string): string {
  return `${keepPrefix(disk)}${requireName("moment", name)}`;
}

/** The number at the end of a key; undefined where there is none. */
export function numberOfKey(prefix: string, key: string): number | undefined {
  return numberOf(key.slice(prefix.length));
}

/** The position that a key names behind its prefix, of a checkpoint or in a log; undefined for another key. */
export function positionOfKey(prefix: string, key: string, between: "-" | "/"): Position | undefined {
  const [epoch, n, ...more] = key.slice(prefix.length).split(between).map(numberOf);
  return epoch === undefined || n === undefined || more.length > 0 ? undefined : { epoch, n };
}

function digits(number: number): string {
  return String(number).padStart(16, "0");
}

function numberOf(text: string): number | undefined {
  const number = Number(text);
  return /^\d{16}$/.test(text) && Number.isSafeInteger(number) ? number : undefined;
}
