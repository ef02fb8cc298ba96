/** A disk in a folder, written segment by segment. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BlockDevice, realEnvironment } from "@dmkit/block-io";
import { openStore } from "@dmkit/object-store";
import { onTestFinished } from "vitest";
import { type AttachedArchive, type LocalLog, type LogSegment, attachTo } from "../src/index.ts";

export const SIZE = 96 * 1024;

/** Runs after the test, last registered first. (A hook of this module would be one of the first file that imports it.) */
export function cleanUp(work: () => unknown): void {
  onTestFinished(async () => void (await work()));
}

export function tempFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "dmkit-archive-"));
  cleanUp(() => rmSync(folder, { recursive: true }));
  return folder;
}

export const TOKEN = "00112233445566778899aabbccddeeff";

export function localOf(backing: BlockDevice, changes: Partial<LocalLog> = {}): LocalLog {
  return { token: TOKEN, last: 0, first: 1, backing, size: SIZE, environment: realEnvironment, ...changes };
}

export async function attached(folder: string, local: LocalLog): Promise<AttachedArchive> {
  const archive = await attachTo(await openStore(folder), "vm1", local, { host: "here" });
  cleanUp(() => archive.close());
  return archive;
}

/** One block, or a part of it, full of a number. */
export function segment(
  time: number,
  ...blocks: (readonly [block: number, bits: number, fill: number])[]
): LogSegment {
  return {
    time,
    sectors: blocks.map(([block]) => block * 8),
    bits: blocks.map(([, bits]) => bits),
    data: Buffer.concat(blocks.map(([, , fill]) => Buffer.alloc(4096, fill))),
  };
}

export async function contents(device: BlockDevice): Promise<Buffer> {
  const bytes = Buffer.alloc(device.size);
  await device.read(0, bytes);
  return bytes;
}
