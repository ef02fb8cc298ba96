/** What layers say of themselves and of each other: which stacks can be, and which are refused. */
import { type BlockIoError, type Environment, SECTOR, isOfPlace, refuse } from "@dmkit/block-io";
import { type StackingOptions, type StackingProblem, judgeStack } from "../core/stacking.ts";
import type { BitmapSource } from "../device/bitmap-loader.ts";
import { type LayerDevices, readIdentity } from "../device/layer/layer.ts";
import { baseWitness, contradict } from "../device/layer/below.ts";
import { judgeData } from "../device/layer/pairing.ts";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import type { AliasedBlockSize } from "../format/aliased.ts";
import type { Identity, IdentityBlock } from "../format/identity.ts";

/** The identities of all layers, bottom to top. */
export function readIdentities({ layers, sectors }: StackDevices): Promise<IdentityBlock[]> {
  return Promise.all(layers.map(({ bitmap }) => readIdentity(bitmap, sectors)));
}

/** The same for those who tell what is wrong: one that cannot be read is damaged. */
export async function identitiesGiven({ layers, sectors }: StackDevices): Promise<IdentityBlock[]> {
  const blocks: IdentityBlock[] = [];
  for (const { bitmap } of layers) {
    const block = readIdentity(bitmap, sectors).catch((error: unknown): IdentityBlock => {
      if (!isOfPlace(error)) throw error;
      return { kind: "damaged", reason: error.reason };
    });
    blocks.push(await block);
  }
  return blocks;
}

/** How the bitmaps of the layers are to be read. */
export function bitmapSources(
  layers: readonly LayerDevices[],
  blocks: readonly IdentityBlock[],
  aliasedBlockSize: AliasedBlockSize | undefined,
): BitmapSource[] {
  return layers.map(({ bitmap }, index) => ({
    bitmap,
    aliased: blocks[index]?.kind === "original" ? aliasedBlockSize : undefined,
  }));
}

/** All problems of a stack as far as identities tell, bottom to top. */
export function judge(
  blocks: readonly IdentityBlock[],
  { baseOffset, layers, sectors }: StackDevices,
  options: Pick<StackingOptions, "writable"> & { readonly aliasedBlockSize?: AliasedBlockSize | undefined },
): StackingProblem[] {
  return judgeStack(blocks, {
    sectors,
    baseOffset: baseOffset / SECTOR,
    offsets: layers.map(({ offset }) => offset / SECTOR),
    writable: options.writable,
    aliasedKnown: options.aliasedBlockSize !== undefined,
  });
}

/** What speaks against the base and the data devices of a stack, bottom to top. Errors: none, see `judgeData`. */
export async function judgeAllData(
  blocks: readonly IdentityBlock[],
  stack: StackDevices,
): Promise<StackingProblem[]> {
  const { layers, sectors } = stack;
  const problems = await judgeBase(blocks[0], stack);
  for (const [index, layer] of layers.entries()) {
    const block = blocks[index];
    const verdict = block && (await judgeData(layer, block, sectors));
    if (verdict !== undefined) problems.push({ layer: index + 1, ...verdict });
  }
  return problems;
}

async function judgeBase(first: IdentityBlock | undefined, stack: StackDevices): Promise<StackingProblem[]> {
  const known = first?.kind === "layer" ? first.identity.baseWitness : undefined;
  const found = known && (await baseWitness(stack));
  // What cannot be read says nothing.
  if (known === undefined || found === undefined || !contradict(known, found)) return [];
  return [
    {
      layer: 1,
      kind: "changed-base",
      reason: `the base, ${stack.base.name}, has been changed since the layer was opened last: it would show wrong data`,
      hint: "Give the base as it was. If what the stack shows is right, or does not matter: dmkit cow pair",
    },
  ];
}

/** Throws `EFORMAT` for a base that is not what the first layer was opened with. */
export async function refuseBase(identity: Identity, stack: StackDevices): Promise<void> {
  const found = await judgeBase({ kind: "layer", identity }, { ...stack, sectors: identity.sectors });
  for (const problem of found) throw stackingError(problem, stack.layers);
}

/** Throws `EFORMAT` for a base or a data device that is not the layer's; warns of data that has changed. */
export async function refuseData(
  blocks: readonly IdentityBlock[],
  stack: StackDevices,
  { name, environment }: { readonly name: string; readonly environment: Environment },
): Promise<void> {
  for (const problem of await judgeAllData(blocks, stack)) {
    if (problem.kind !== "changed-data") throw stackingError(problem, stack.layers);
    environment.logger.log("warn", problem.reason, {
      device: name,
      layer: problem.layer,
      hint: problem.hint,
    });
  }
}

/** Throws for a stack that cannot be. @param writable whether its top is to be written. */
export function refuseProblems(
  blocks: readonly IdentityBlock[],
  stack: StackDevices,
  writable: boolean,
  aliasedBlockSize: AliasedBlockSize | undefined,
): void {
  const { layers } = stack;
  const problems = judge(blocks, stack, { writable, aliasedBlockSize });
  // A layer of the original on top is no error: the stack is read-only then.
  const problem = problems.find(({ kind }) => kind !== "original-top");
  if (problem === undefined) return;
  throw stackingError(problem, layers);
}

/** The error to refuse a stack with. */
export function stackingError(problem: StackingProblem, layers: readonly LayerDevices[]): BlockIoError {
  return refuse(
    layers[problem.layer - 1]?.bitmap.name,
    problem.kind === "frozen" ? "EROFS" : "EFORMAT",
    `layer ${problem.layer}: ${problem.reason}`,
    problem.hint,
  );
}

/** What the bitmaps of the original cannot tell. */
export function warnOfAliases(
  blocks: readonly IdentityBlock[],
  { layers }: StackDevices,
  name: string,
  { logger }: Environment,
): void {
  for (const [index, { kind }] of blocks.entries()) {
    if (kind !== "original") continue;
    logger.log("warn", "the layer's bitmap is aliased: sectors that were never written may show as zeroes", {
      device: name,
      layer: index + 1,
      bitmap: layers[index]?.bitmap.name,
    });
  }
}
