/** Offline: what is wrong with a cache device that nobody is serving. Writes nothing. */
import { type BlockDevice, realEnvironment, refuse } from "@dmkit/block-io";
import type { Problem } from "./examine/findings.ts";
import { examine } from "./examine/examine.ts";
import type { Dialect } from "../format/checksum.ts";

export type { Problem, ProblemKind } from "./examine/findings.ts";

export interface CheckOptions {
  /** segment_size_order it should have. */
  readonly order?: number | undefined;
  readonly dialect?: Dialect | undefined;
  readonly plog?: BlockDevice | undefined;
  /** Only the ratio counts. */
  readonly progress?: ((done: number, total: number) => void) | undefined;
  /** Ends the check, which rejects with its reason. */
  readonly signal?: AbortSignal | undefined;
}

/** What a check saw, whether or not there are problems. */
export interface CheckSummary {
  readonly dialect: Dialect;
  readonly order: number;
  readonly slots: number;
  readonly firstId: number;
  readonly lastId: number;
  readonly lastWritebackId: number;
  readonly record: number;
  readonly segments: number;
  readonly dirtyBlocks: number;
}

/** Checksums every segment. Throws `EFORMAT` where there is no cache to check. */
export async function check(
  cache: BlockDevice,
  backing: BlockDevice,
  options: CheckOptions = {},
): Promise<{ readonly problems: readonly Problem[]; readonly summary: CheckSummary }> {
  const { plog, ...rest } = options;
  const { findings, found } = await examine(
    { cache, backing, plog },
    { environment: realEnvironment, ...rest },
  );
  const problems = findings.map(({ problem }) => problem);
  if (found === undefined) {
    const [{ text, advice } = { text: "there is no cache", advice: undefined }] = problems;
    throw refuse(cache.name, "EFORMAT", text, advice ?? "Give a cache device.");
  }
  return {
    problems,
    summary: {
      dialect: found.dialect,
      order: found.geometry.order,
      slots: found.geometry.slots,
      firstId: found.first,
      lastId: found.last,
      lastWritebackId: found.lastWriteback,
      record: found.record,
      segments: Math.max(0, found.last - found.first + 1),
      dirtyBlocks: found.map.dirtyBlocks,
    },
  };
}
