/** Where a snapshot lies on its device, and the errors about it. */
import { type BlockDevice, BlockIoError, refuse } from "@dmkit/block-io";
import { PAGE } from "../../core/size-classes.ts";
import { ENTRY } from "../../format/snapshot.ts";

/** Bytes that are read and written at once. */
export const CHUNK: number = 1024 * 1024;

/** Bytes that one copy of a disk may take, at most. */
export function snapshotRoom(pages: number): number {
  return PAGE + roundUp(pages * ENTRY) + pages * PAGE;
}

export function roundUp(bytes: number): number {
  return Math.ceil(bytes / PAGE) * PAGE;
}

/** @param at byte of the copy. */
export function damaged(
  source: BlockDevice,
  at: number,
  what: string,
  code: "EFORMAT" | "EIO" = "EFORMAT",
): BlockIoError {
  return refuse(
    source.name,
    code,
    `the snapshot at byte ${at} is damaged: ${what}`,
    `${code === "EIO" ? "Try again: that may pass. " : ""}To do without it zero ${PAGE} bytes there: then the one before it counts or, if there is none, the disk is empty.`,
  );
}

/** What it was made with is not what it is opened with. */
export function mismatch(source: BlockDevice, reason: string, hint: string): BlockIoError {
  return refuse(source.name, "EINVAL", reason, hint);
}
