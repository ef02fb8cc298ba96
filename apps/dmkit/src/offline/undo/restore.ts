/**
 * Puts back what an undo file saved.
 *
 * Invariants:
 *
 * - nothing is written before the whole file is verified and the devices are known to be the ones;
 * - that restoring has begun is noted, on stable storage, before the first byte is put back: after a kill it can
 *   simply be run again, although the devices then hold neither what was nor what came after;
 * - once all is back that is noted, too. From then on the file is spent: what has changed since is newer.
 */
import { type BlockDevice, BlockIoError, crc32c, given, inParallel } from "@dmkit/block-io";
import { type UndoVersion, contentsChecksum } from "../format/undo-file.ts";
import { UndoRecorder } from "./recorder.ts";
import type { SavedRange, UndoFile } from "./read.ts";
import { type Range, checksumOf, sampledBlock } from "./sample.ts";
import { lookedAt } from "./session.ts";
import type { UndoStorage } from "./storage.ts";

// Bytes: punching a smaller hole takes longer than writing zeroes.
const WORTH_A_HOLE = 64 * 1024;
// Places that are restored at a time.
const WORKERS = 16;

export interface RestoreOptions {
  /** Write even if a device has changed since, or may be another one. */
  readonly force?: boolean;
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ((done: number, total: number) => void) | undefined;
}

/** Whether there is anything to put back. Throws `EINVAL` for devices that are not, or not as, those saved. */
export async function verifyDevices(
  file: UndoFile,
  devices: readonly BlockDevice[],
  storage: UndoStorage,
  { force = false, signal }: RestoreOptions = {},
): Promise<"restore" | "nothing"> {
  for (const [index, { size }] of file.header.devices.entries()) requireSize(devices[index], size);
  if (file.ranges.length === 0) return "nothing";
  if (file.state === "undone") {
    if (await holdsOld(file, devices, storage, signal)) return "nothing";
    if (force) return "restore";
    throw refusal(devices[0], "was restored from this file already, and has changed since", FORCE_HINT);
  }
  if (force) return "restore";
  for (const [index, device] of devices.entries()) {
    if (!(await hasSamples(file, index, device))) {
      throw refusal(device, "is another device, or has changed since this file was made", FORCE_HINT);
    }
  }
  // Without a last word, or in the middle of restoring, what was overwritten may hold anything.
  if (!file.complete || file.state === "begun") return "restore";
  for (const range of file.ranges) {
    signal?.throwIfAborted();
    const device = devices[range.device] as BlockDevice;
    const { version } = file.header;
    const now = await checksumOf(device, lookedAt(range), version);
    if (now === range.after || now === (await oldChecksum(range, storage, version))) continue;
    throw refusal(device, `has changed since, at byte ${range.offset}`, FORCE_HINT);
  }
  return "restore";
}

const FORCE_HINT =
  "Nothing was written. To restore would mix old blocks with newer ones: only --force does it, and later files come first.";

/** Puts everything back. The devices are those {@link verifyDevices} approved of, writable. */
export async function restore(
  file: UndoFile,
  devices: readonly BlockDevice[],
  storage: UndoStorage,
  { signal, progress }: RestoreOptions = {},
): Promise<void> {
  // What is torn behind the end must not become part of the file.
  await storage.truncate(file.end);
  const recorder = new UndoRecorder(storage, file.header.uuid, file.end, file.records);
  await recorder.save([{ kind: "begun", device: 0, offset: 0, length: 0 }]);
  const total = file.ranges.reduce((sum, { length }) => sum + length, 0);
  let done = 0;
  await inParallel(inOrder(file.ranges), WORKERS, async (range) => {
    signal?.throwIfAborted();
    await putBack(devices[range.device] as BlockDevice, range, storage);
    done += range.length;
    progress?.(done, total);
  });
  for (const device of devices) await device.flush();
  await recorder.save([{ kind: "undone", device: 0, offset: 0, length: 0 }]);
}

/** By place, neighbouring zeroes as one. Nothing was saved twice (read.ts sees to it), so any order would do. */
function inOrder(ranges: readonly SavedRange[]): SavedRange[] {
  const ordered: SavedRange[] = [];
  for (const range of ranges.toSorted((a, b) => a.device - b.device || a.offset - b.offset)) {
    const last = ordered.at(-1);
    const follows = last?.device === range.device && last.offset + last.length === range.offset;
    if (last !== undefined && follows && last.payload === undefined && range.payload === undefined) {
      ordered[ordered.length - 1] = { ...last, length: last.length + range.length };
    } else {
      ordered.push(range);
    }
  }
  return ordered;
}

async function putBack(device: BlockDevice, range: SavedRange, storage: UndoStorage): Promise<void> {
  const payload = await readPayload(range, storage);
  if (payload !== undefined) await device.write(range.offset, payload);
  else if (range.length < WORTH_A_HOLE) await device.write(range.offset, Buffer.alloc(range.length));
  else await device.writeZeroes(range.offset, range.length, { mayUnmap: true });
}

/** What a range held; undefined: zeroes. */
async function readPayload(range: SavedRange, storage: UndoStorage): Promise<Buffer | undefined> {
  if (range.payload === undefined) return undefined;
  const payload = Buffer.allocUnsafeSlow(range.length);
  const count = await storage.read(range.payload, payload);
  if (count === payload.length && crc32c(payload) === range.checksum) return payload;
  throw new BlockIoError("the undo file has changed while it was read", { code: "EIO" });
}

/** Checksum of what is looked at of a range, as it was. */
async function oldChecksum(range: SavedRange, storage: UndoStorage, version: UndoVersion): Promise<number> {
  const { length } = lookedAt(range);
  const payload = await readPayload(range, storage);
  return contentsChecksum(payload?.subarray(0, length) ?? Buffer.alloc(length), version);
}

async function holdsOld(
  file: UndoFile,
  devices: readonly BlockDevice[],
  storage: UndoStorage,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  for (const range of file.ranges) {
    signal?.throwIfAborted();
    const { version } = file.header;
    const now = await checksumOf(devices[range.device] as BlockDevice, lookedAt(range), version);
    if (now !== (await oldChecksum(range, storage, version))) return false;
  }
  return true;
}

/** Whether the sampled blocks that were not overwritten are as they were. */
async function hasSamples(file: UndoFile, index: number, device: BlockDevice): Promise<boolean> {
  const samples = file.header.devices[index]?.samples ?? [];
  const saved = file.ranges.filter((range) => range.device === index);
  for (const sample of samples) {
    const block = sampledBlock(sample, device.size);
    if (saved.some((range) => overlaps(range, block))) continue;
    const now = await given(checksumOf(device, block, file.header.version));
    if (now !== undefined && now !== sample.checksum) return false;
  }
  return true;
}

function overlaps(a: Range, b: Range): boolean {
  return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}

function requireSize(device: BlockDevice | undefined, size: number): void {
  if (device?.size === size) return;
  throw refusal(
    device,
    `has ${device?.size ?? 0} bytes, the device this file was made for has ${size}`,
    "Nothing was written. Name the right device behind the undo file.",
  );
}

function refusal(device: BlockDevice | undefined, reason: string, hint: string): BlockIoError {
  return new BlockIoError(reason, { code: "EINVAL", device: device?.name, hint });
}
