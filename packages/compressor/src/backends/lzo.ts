/**
 * LZO1X, this package's own implementation (format/lzo1x*.ts), so it is there on every platform.
 *
 * Where the line to other threads lies (bench/boundary.mjs; processor time in µs here → all in all on worker
 * threads, Node 20, 2 busy cores): compress 4 KiB 75 → 120, 8 KiB 140 → 180, 16 KiB 268 → 315, 128 KiB 2211 →
 * 1764; decompress 8 KiB 82 → 164, 32 KiB 345 → 360, 128 KiB 1592 → 1828. A hand-over costs some 40 µs; it is
 * made where that is a quarter of the work or less. On an idle machine the work takes about half of these times.
 */
import type { Backend } from "../backend.ts";
import {
  type Lzo1xContext,
  createLzo1xContext,
  lzo1xBound,
  lzo1xCompress,
} from "../format/lzo1x-compress.ts";
import { lzo1xDecompress } from "../format/lzo1x-decompress.ts";

export const lzo: Backend<Lzo1xContext> = {
  name: "lzo",
  description: "LZO1X-1, readable by liblzo2, lzop and the Linux kernel",
  id: 0,
  syncCompress: 8192,
  syncDecompress: 16384,
  worker: { module: import.meta.url, exportName: "lzo" },
  createContext: createLzo1xContext,
  destroyContext: () => undefined,
  bound: lzo1xBound,
  compress: lzo1xCompress,
  decompress: lzo1xDecompress,
};
