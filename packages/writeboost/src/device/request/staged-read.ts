/** A read whose blocks enter the log where they come from the backing device. */
import { BLOCK } from "../../format/geometry.ts";
import type { ReadPath } from "./read-path.ts";
import type { Staging } from "./staging.ts";
import type { WritePath } from "./write-path.ts";

/** @param ticket what {@link Staging.begin} has given for the read. */
export async function readAndStage(
  reads: ReadPath,
  staging: Staging,
  writes: WritePath,
  offset: number,
  into: Buffer,
  ticket: number,
): Promise<void> {
  try {
    await reads.read(offset, into, (from, data) => {
      for (let at = (BLOCK - (from % BLOCK)) % BLOCK; at + BLOCK <= data.length; at += BLOCK) {
        const block = (from + at) / BLOCK;
        if (staging.take(block, ticket)) writes.stage(block, data.subarray(at, at + BLOCK));
      }
    });
  } finally {
    staging.end(offset, into.length, ticket);
  }
}
