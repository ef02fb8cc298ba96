/**
 * LZO1X, this package's own implementation (format/lzo1x*.ts), so it is there on every platform.
 *
 * The code runs at some 100 MB/s in either direction on one core: worth another thread from 16 KiB on. Its
 * library having no threads, that means worker threads.
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
  syncCompress: 16384,
  syncDecompress: 16384,
  worker: { module: import.meta.url, exportName: "lzo" },
  createContext: createLzo1xContext,
  destroyContext: () => undefined,
  bound: lzo1xBound,
  compress: lzo1xCompress,
  decompress: lzo1xDecompress,
};
