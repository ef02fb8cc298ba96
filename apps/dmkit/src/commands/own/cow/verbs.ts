/** The work of `dmkit cow …`: each opens a stack, does one thing with it, and says what came of it. */
import { SECTOR, describeSize, printable, printableJson } from "@dmkit/block-io";
import {
  type AliasedBlockSize,
  type ChangedRange,
  type Problem,
  type StackDevices,
  check,
  commitLayer,
  commitTop,
  diff,
  exportDiff,
  flatten,
  pair,
  rebase,
  squash,
  stackInfo,
  upToSnapshot,
} from "@dmkit/cow";
import { requireOther, withDestination } from "../../../destination.ts";
import { CANCELLED, print, tellCancelled } from "../../../offline/work.ts";
import { endedBySignal } from "../../../ui/interrupt.ts";
import { outputLost } from "../../../ui/output.ts";
import { startProgress } from "../../../ui/progress.ts";
import { exitCodes } from "../../../ui/terminal.ts";
import { stackPool, withStack } from "./stack-words.ts";
import { commandEnvironment } from "../../../ui/command-environment.ts";

export interface Flags {
  readonly size?: number;
  readonly aliasedBlockSize?: string;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

export interface FlattenFlags extends Flags {
  readonly from: number;
  readonly force: boolean;
  readonly bad?: "zero";
  /** What it shows instead. */
  readonly snapshot?: string;
}

export interface CommitFlags extends Flags {
  readonly drop: boolean;
  /** From 1 at the bottom; undefined: the top. */
  readonly layer?: number;
}

export interface DiffFlags extends Flags {
  readonly export?: string;
  readonly force: boolean;
}

export interface Range {
  readonly from: number;
  readonly to: number;
}

export async function info(words: string[], flags: Flags): Promise<number> {
  return withStack({ words, size: flags.size, looksAtBitmaps: true }, async (stack) => {
    const facts = await stackInfo(stack, aliased(flags));
    if (flags.json) print(`${printableJson(facts, 2)}\n`);
    else {
      print(`base     ${facts.base}, ${describeSize(facts.size)} (${facts.size / SECTOR} sectors)\n`);
      for (const {
        layer,
        bitmap,
        kind,
        uuid,
        frozen,
        snapshot,
        allocated,
        dataOffset = 0,
        baseOffset,
      } of facts.layers) {
        const parts = [
          snapshot === undefined ? (frozen ? "frozen" : kind) : `snapshot ${printable(snapshot.name)}`,
          ...(snapshot === undefined ? [] : [`made ${new Date(snapshot.made).toISOString()}`]),
          ...(allocated === undefined ? [] : [`holds ${describeSize(allocated)}`]),
          ...(dataOffset === 0 ? [] : [`data from sector ${dataOffset}`]),
          ...(baseOffset === undefined || baseOffset === 0 ? [] : [`on the base from sector ${baseOffset}`]),
          ...(uuid === undefined ? [] : [uuid]),
        ];
        print(`layer ${layer}  ${bitmap}: ${parts.join(", ")}\n`);
      }
      if (facts.unknown !== undefined)
        print(`of ${describeSize(facts.unknown)} a bitmap cannot be read: what is there is not counted\n`);
      for (const { layer, reason, hint } of facts.problems) print(`layer ${layer}: ${reason}\n  ${hint}\n`);
    }
    return exitCodes.ok;
  });
}

export async function checkStack(words: string[], flags: Flags): Promise<number> {
  return withStack({ words, size: flags.size, looksAtBitmaps: true }, async (stack) => {
    const problems: Problem[] = [];
    for await (const problem of check(stack, aliased(flags))) problems.push(problem);
    if (flags.json) print(`${printableJson(problems, 2)}\n`);
    else
      for (const { severity, layer, text, advice = "" } of problems)
        print(`${severity}: layer ${layer}: ${text}\n  ${advice}\n`);
    return problems.some(({ severity }) => severity === "error") ? exitCodes.error : exitCodes.ok;
  });
}

export async function commit(words: string[], flags: CommitFlags): Promise<number> {
  const { layer } = flags;
  if (layer !== undefined) {
    // The lowest layer forgets what it knows of the base that is about to change.
    const isWritten = (one: number): boolean =>
      one === layer - 1 || one === layer + 1 || (layer === 1 && one === 1);
    return withStack({ words, size: flags.size, writes: isWritten }, (stack) =>
      work("commit", stack, flags, (options) => commitLayer(stack, layer, { ...options, ...aliased(flags) })),
    );
  }
  const writes = (layer: number, layers: number): boolean => layer >= layers - 1;
  return withStack({ words, size: flags.size, writes }, (stack) =>
    work("commit", stack, flags, (options) =>
      commitTop(stack, { ...options, ...aliased(flags), drop: flags.drop }),
    ),
  );
}

export async function squashStack({ from, to }: Range, words: string[], flags: Flags): Promise<number> {
  return withStack({ words, size: flags.size, writes: (layer) => layer === to }, (stack) =>
    work("squash", stack, flags, (options) => squash(stack, from, to, { ...options, ...aliased(flags) })),
  );
}

export async function rebaseStack(words: string[], flags: Flags & { onto: string[] }): Promise<number> {
  const writes = (layer: number, layers: number): boolean => layer === layers && layers > 0;
  const pool = stackPool();
  try {
    return await withStack({ words, size: flags.size, writes, pool }, (stack) =>
      withStack({ words: flags.onto, size: stack.sectors * SECTOR, pool }, (onto) =>
        work("rebase", stack, flags, (options) => {
          const { withBitmap } = onto;
          const environment = commandEnvironment;
          return rebase(stack, onto, { ...options, ...aliased(flags), withBitmap, environment });
        }),
      ),
    );
  } finally {
    await pool.close();
  }
}

export async function pairStack(words: string[], flags: Flags & { force: boolean }): Promise<number> {
  const writes = (layer: number): boolean => layer > 0;
  return withStack({ words, size: flags.size, writes }, async (stack) => {
    await pair(stack, { ...aliased(flags), take: flags.force });
    return exitCodes.ok;
  });
}

export async function flattenStack(path: string, words: string[], flags: FlattenFlags): Promise<number> {
  requireOther(path, words);
  return withStack({ words, size: flags.size }, async (whole) => {
    const stack = flags.snapshot === undefined ? whole : await upToSnapshot(whole, flags.snapshot);
    const environment = commandEnvironment;
    const size = stack.sectors * SECTOR;
    let reached = flags.from;
    let gone: Awaited<ReturnType<typeof flatten>> = [];
    const code = await work("flatten", stack, flags, ({ progress, signal }) => {
      // What an interrupted run has written is kept for the next one; a failed one begins anew.
      const resume = flags.from > 0;
      // Where the image was forgotten, what is there is the base.
      const overwrite = resume || flags.force;
      const options = { size, environment, resume, overwrite, keep: () => signal.aborted };
      return withDestination(path, options, async ({ device }) => {
        gone = await flatten(stack, device, {
          bad: flags.bad,
          signal,
          from: flags.from,
          progress: (bytes) => {
            reached = bytes;
            progress(bytes);
          },
          ...aliased(flags),
        });
      });
    });
    if (code === CANCELLED) process.stderr.write(`  to go on, add: --from ${reached}\n`);
    for (const { sector, count } of gone)
      process.stderr.write(
        `flatten: bytes ${sector * SECTOR} … ${(sector + count) * SECTOR - 1} cannot be read, and are zero in the image\n`,
      );
    return code === exitCodes.ok && gone.length > 0 ? exitCodes.error : code;
  });
}

export async function diffStack({ from, to }: Range, words: string[], flags: DiffFlags): Promise<number> {
  if (flags.export !== undefined) requireOther(flags.export, words);
  return withStack({ words, size: flags.size }, async (stack) => {
    let ranges: AsyncIterable<ChangedRange> | readonly ChangedRange[] = diff(stack, from, to, aliased(flags));
    const { export: path, force: overwrite } = flags;
    if (path !== undefined) {
      const size = stack.sectors * SECTOR;
      const done = await endedBySignal("diff", (signal) =>
        withDestination(path, { size, environment: commandEnvironment, overwrite }, ({ device }) =>
          exportDiff(stack, diff(stack, from, to, { ...aliased(flags), signal }), device),
        ),
      );
      if (done === "cancelled") return tellCancelled("diff");
      ranges = done.value;
    }
    for await (const found of ranges) {
      if (outputLost.aborted) break;
      const { offset, length, layer } = found;
      print(flags.json ? `${JSON.stringify(found)}\n` : `${offset}\t${length}\t${layer}\n`);
    }
    return exitCodes.ok;
  });
}

/** Long work: with progress, ended by an interrupt between two steps. */
export async function work(
  label: string,
  stack: StackDevices,
  flags: Flags,
  run: (options: { progress: (bytes: number) => void; signal: AbortSignal }) => Promise<unknown>,
): Promise<number> {
  const progress = startProgress(label, stack.sectors * SECTOR, flags.quiet === true);
  const done = await endedBySignal(label, (signal) =>
    run({ progress: (bytes) => progress.update(bytes), signal }),
  ).finally(() => progress.stop());
  if (done === "cancelled") return tellCancelled(label);
  const { value: bytes } = done;
  if (typeof bytes === "number" && flags.quiet !== true)
    process.stderr.write(`${label}: ${describeSize(bytes)}\n`);
  return exitCodes.ok;
}

/** How layers without a UUID are read. */
export function aliased({ aliasedBlockSize }: Flags): { aliasedBlockSize: AliasedBlockSize | undefined } {
  return {
    aliasedBlockSize:
      aliasedBlockSize === undefined ? undefined : (Number(aliasedBlockSize) as AliasedBlockSize),
  };
}
