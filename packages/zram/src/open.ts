/** Opening: finds the algorithms and the backing device, and starts an empty disk. */
import {
  Bitmap,
  BlockIoError,
  type ErrorCode,
  type OpenContext,
  isErrorCode,
  requireRoom,
} from "@dmkit/block-io";
import { type Compressor, CompressorError, createCompressor } from "@dmkit/compressor";
import { Pages } from "./core/pages.ts";
import { PAGE } from "./core/size-classes.ts";
import { ZramDevice } from "./device.ts";
import type { ZramOptions } from "./options.ts";
import { loadSnapshot, snapshotRoom } from "./snapshot.ts";

const MAX_PAGES = 2 ** 31;

export async function openZram(options: ZramOptions, context: OpenContext): Promise<ZramDevice> {
  const { name, size, environment } = context;
  const pages = Math.ceil(size / PAGE);
  if (pages > MAX_PAGES) {
    throw new BlockIoError(`${size} bytes are more than ${MAX_PAGES * PAGE}`, {
      code: "EINVAL",
      device: name,
      op: "open",
      hint: "Use several devices.",
    });
  }
  const backing =
    options.backing_dev === undefined ? undefined : await context.lower(options.backing_dev, "write");
  const snapshot =
    options.snapshot === undefined ? undefined : await context.lower(options.snapshot, "write");
  if (snapshot !== undefined) requireRoom(snapshot, 0, snapshotRoom(pages));
  const primary = await compressor(options.comp_algorithm, options, context);
  try {
    const secondary =
      options.recomp_algorithm === undefined
        ? undefined
        : await compressor(options.recomp_algorithm, options, context);
    const blocks = backing && new Bitmap(Math.floor(backing.size / PAGE));
    const store = new Pages(pages, blocks);
    store.slabs.limit = options.mem_limit === 0 ? Number.POSITIVE_INFINITY : options.mem_limit;
    const parts = { name, size, environment, pages: store, primary, secondary, backing, snapshot };
    const device = new ZramDevice(parts);
    if (snapshot !== undefined) await loadSnapshot(device, snapshot);
    return device;
  } catch (error) {
    await primary.close();
    throw error;
  }
}

async function compressor(
  algorithm: string,
  { max_comp_streams }: ZramOptions,
  { name, environment }: OpenContext,
): Promise<Compressor> {
  try {
    return await createCompressor(algorithm, {
      maxInput: PAGE,
      maxStreams: max_comp_streams === 0 ? undefined : max_comp_streams,
      // Streams are small here: none is worth a timer.
      idleTime: 0,
      clock: environment.clock,
    });
  } catch (error) {
    if (!(error instanceof CompressorError)) throw error;
    const code: ErrorCode = isErrorCode(error.code) ? error.code : "EINVAL";
    throw new BlockIoError(error.message, { code, device: name, op: "open", cause: error, hint: error.hint });
  }
}
