/** No compression: a copy. For measuring, and for data that is known not to shrink. */
import { type Backend, deliver } from "../backend.ts";
import { corrupt } from "../errors.ts";

function decompress(src: Uint8Array, dst: Uint8Array): number {
  const length = deliver(src, dst);
  if (length < 0) throw corrupt("none", "the output is longer than its buffer");
  return length;
}

export const none: Backend<undefined> = {
  name: "none",
  description: "no compression, a plain copy",
  syncCompress: Number.POSITIVE_INFINITY,
  syncDecompress: Number.POSITIVE_INFINITY,
  createContext: () => undefined,
  destroyContext: () => undefined,
  bound: (length) => length,
  compress: deliver,
  decompress,
};
