/** Reading dictionaries: files that are there whenever the disk is opened. */
import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import { refuse, toBlockIoError } from "@dmkit/block-io";

/** Bytes. The compressor takes no longer one. */
const MOST = 1024 * 1024;

export interface Dictionary {
  readonly bytes: Buffer;
  /** SHA-256. */
  readonly hash: Buffer;
}

/** Reads the dictionary at a path, for the device of that name. */
export type DictionaryReader = (path: string, device: string) => Promise<Dictionary>;

/** Errors: `EINVAL` (too long), those of the file. */
export async function readDictionary(path: string, device: string): Promise<Dictionary> {
  const bytes = await readFrom(path).catch((error: unknown) => {
    const hint = `${path} is given as a dictionary, and needed whenever the disk is opened.`;
    throw toBlockIoError(error, { device, op: "open", hint });
  });
  if (bytes.length > MOST)
    throw refuse(
      device,
      "EINVAL",
      `the dictionary ${path} is longer than ${MOST} bytes`,
      "Train a shorter one.",
    );
  return { bytes, hash: createHash("sha256").update(bytes).digest() };
}

/** One byte more than it may be, at the most. */
async function readFrom(path: string): Promise<Buffer> {
  const file = await open(path, "r");
  try {
    const into = Buffer.alloc(MOST + 1);
    let length = 0;
    for (;;) {
      const { bytesRead } = await file.read(into, length, into.length - length, length);
      length += bytesRead;
      if (bytesRead === 0 || length === into.length) return Buffer.from(into.subarray(0, length));
    }
  } finally {
    await file.close();
  }
}
