/** What the checks of the conformance suite work on, and the few things they all do with it. */
import assert from "node:assert/strict";
import type { BlockDevice, Extent } from "../../contract/device.ts";
import { BlockIoError, type ErrorCode } from "../../contract/errors.ts";
import type { BadSectors } from "../bad-sectors.ts";

/** A device under test, and what is needed to put it away. */
export interface Subject {
  /** Fresh, at least 256 KiB; what is in it does not matter. */
  readonly device: BlockDevice;
  /** Opens the same storage again after `device` was closed. Without it persistence is not tested. */
  readonly reopen?: () => Promise<BlockDevice>;
  /** The devices below it, which `reopen` opens it on; each of their sectors is to fail. */
  readonly lower?: readonly BadSectors[];
  /** What `reopen` finds: all that was flushed (default), or only what an orderly close left. */
  readonly survives?: "crash" | "close";
  /** It takes no writes any more once a place below that cannot be read is in their way: a log that comes round. */
  readonly stops?: boolean;
  /** It opens to be read only, where a place below that holds data cannot be read: nothing is written over that. */
  readonly closes?: boolean;
  /** Titles of checks that it does not pass yet; say why where you set it. */
  readonly excludes?: readonly string[];
  /** Called after every check, when the device is closed. */
  readonly dispose?: () => Promise<void> | void;
}

export type Checks = Readonly<Record<string, (subject: Subject, seed: number) => Promise<void>>>;

// Requests stay in the first part of large devices, and at their end.
export const SPAN: number = 256 * 1024;

export const writable = (device: BlockDevice): boolean => !device.limits.capabilities.readOnly;

export async function rejects(promise: Promise<unknown>, ...codes: ErrorCode[]): Promise<void> {
  await assert.rejects(promise, (error: unknown) => {
    assert.ok(error instanceof BlockIoError, `not a BlockIoError: ${String(error)}`);
    assert.ok(codes.includes(error.code), `${error.code}, not ${codes.join(" or ")}: ${error.message}`);
    return true;
  });
}

export async function readBack(device: BlockDevice, offset: number, length: number): Promise<Buffer> {
  const into = Buffer.alloc(length, 0xee);
  await device.read(offset, into);
  return into;
}

export function same(actual: Buffer, expected: Buffer, what: string): void {
  if (actual.equals(expected)) return;
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  assert.fail(`${what}: first difference at byte ${at}: ${actual[at]} instead of ${expected[at]}`);
}

export async function collect(device: BlockDevice, offset: number, length: number): Promise<Extent[]> {
  const extents: Extent[] = [];
  for await (const extent of device.extents(offset, length)) extents.push(extent);
  return extents;
}

export async function checkExtents(device: BlockDevice, offset: number, length: number): Promise<void> {
  let at = offset;
  for (const extent of await collect(device, offset, length)) {
    assert.equal(extent.offset, at, "extents are contiguous");
    assert.ok(extent.length > 0 && extent.offset + extent.length <= offset + length, "extents are clipped");
    if (extent.kind !== "data") {
      const zero = Buffer.alloc(Math.min(extent.length, SPAN));
      same(await readBack(device, extent.offset, zero.length), zero, `a ${extent.kind} reads as zeroes`);
    }
    at += extent.length;
  }
  assert.equal(at, offset + length, "extents cover the range");
}
