/** Opening: finds out what is on the device, makes a new one if it is blank, and hands over to its format. */
import assert from "node:assert/strict";
import { type Opening, type OpenSettings } from "./opening.ts";
import { type CompressionRules, compressionRules } from "../core/rules.ts";
import {
  type BlockDevice,
  type BlockIoError,
  type OpenContext,
  type TargetDevice,
  contentsOf,
  notBlank,
  parseOptions,
  readWhatIsGiven,
  refuse,
  requireBlank,
  checkSettings,
  setting,
} from "@dmkit/block-io";
import { BLOCK } from "../format/geometry-v1.ts";
import { isSuperblockV1 } from "../format/superblock-v1.ts";
import type { SuperblockV2 } from "../format/superblock-v2.ts";
import { type CompressionOptions, compressionOptions, useOf } from "../options.ts";
import { requireWorking } from "../device/codec.ts";
import { requireFit, requireOptionsOfV1 } from "./refusals.ts";
import { DEFAULT_V1, createV1, openV1, planV1, requireV1 } from "./v1/open.ts";
import { DEFAULT_V2, createV2, openV2, planV2, requireV2 } from "./v2/open.ts";
import { readSuperblock } from "../device/v2/superblocks.ts";

/**
 * Opens the device, making it first if it is blank, or anything else that is none and `force` is given. Errors: `EFORMAT`,
 * `EINVAL`, `EROFS` for a blank one that cannot be written.
 */
export async function openCompression(
  given: CompressionOptions,
  context: OpenContext,
  settings: OpenSettings = {},
  rules: CompressionRules = compressionRules,
): Promise<TargetDevice> {
  const { synchronous = false } = checkSettings({ synchronous: setting.flag }, settings);
  // A table has been checked; a program has not.
  const options = parseOptions(compressionOptions, given, "compression");
  const lower = await context.lower(...useOf(options));
  const opening: Opening = { synchronous, rules };
  let found = await examine(lower, options, context);
  if (found === "none") {
    if (options.force) await requireBlank(lower, { force: true });
    await create(lower, options, context);
    found = await examine(lower, { ...options, force: false }, context);
    assert(found !== "none");
  }
  return found === "v1"
    ? openV1(lower, options, context, opening)
    : openV2(lower, found, options, context, opening);
}

/** Throws what opening would throw, as far as it shows by reading. */
export async function checkCompression(
  options: CompressionOptions,
  context: Pick<OpenContext, "name" | "size" | "lower">,
): Promise<void> {
  await examine(await context.lower(...useOf(options)), options, context);
}

/** What is there, or `none` where a new device can be made. Nothing is written, nor erased, before everything is known to be right. */
async function examine(
  lower: BlockDevice,
  options: CompressionOptions,
  context: Pick<OpenContext, "name" | "size">,
): Promise<"v1" | SuperblockV2 | "none"> {
  checkExtent(options, context);
  if (lower.size < 2 * BLOCK) throw tooSmall(lower);
  // Format 2 has another copy; of format 1 the first sector says all there is.
  const start = Buffer.alloc(BLOCK);
  const missing = await readWhatIsGiven(lower, 0, start);
  if (!missing.has(0) && isSuperblockV1(start)) {
    if (options.format === "v2") throw otherFormat(lower, "v1");
    requireV1(lower, start, options, context);
    return "v1";
  }
  const superblock = await readSuperblock(lower);
  if (superblock !== undefined) {
    if (options.format === "v1") throw otherFormat(lower, "v2");
    requireV2(lower, superblock, options, context);
    return superblock;
  }
  if (lower.limits.capabilities.readOnly) throw await nothingToRead(lower);
  if (!options.force) await requireBlank(lower, { force: false });
  await requirePossible(lower, options, context);
  return "none";
}

/** Throws `EINVAL` for a new device that could be made, but not be opened. */
async function requirePossible(
  lower: BlockDevice,
  { format, algorithm, ...options }: CompressionOptions,
  { name, size }: Pick<OpenContext, "name" | "size">,
): Promise<void> {
  if (format === "v1") {
    requireOptionsOfV1(options, name);
    const plan = planV1(lower, algorithm ?? DEFAULT_V1, name);
    requireFit(size, plan.dataBlocks, name);
    await requireWorking(algorithm ?? DEFAULT_V1, name);
  } else {
    requireFit(size, planV2(lower, options.journal).dataBlocks, name);
    await requireWorking(algorithm ?? DEFAULT_V2, name);
  }
}

async function create(lower: BlockDevice, options: CompressionOptions, context: OpenContext): Promise<void> {
  if (options.format === "v1") await createV1(lower, options, context);
  else await createV2(lower, options, context);
}

async function nothingToRead(lower: BlockDevice): Promise<BlockIoError> {
  const contents = await contentsOf(lower);
  if (contents !== undefined) return notBlank(lower, contents, {});
  return refuse(
    lower.name,
    "EROFS",
    "is blank, and cannot be written",
    "Open it for writing first: that makes a new compressed device of it.",
  );
}

function checkExtent({ max_extent }: CompressionOptions, { name }: Pick<OpenContext, "name">): void {
  if (max_extent === undefined || max_extent % BLOCK === 0) return;
  throw refuse(name, "EINVAL", `max_extent is ${max_extent}`, `It must be a multiple of ${BLOCK}.`);
}

function otherFormat(lower: BlockDevice, format: string): BlockIoError {
  return refuse(
    lower.name,
    "EFORMAT",
    `the device is of format ${format}`,
    "Leave the option format out to open it as it is.",
  );
}

function tooSmall(lower: BlockDevice): BlockIoError {
  return refuse(lower.name, "EINVAL", `${lower.size} bytes leave no room for data`, "Use a larger device.");
}
