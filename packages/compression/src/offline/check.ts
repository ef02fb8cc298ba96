/** `check`: everything that can be verified of an image that nobody serves. Nothing is written. */
import {
  type BlockDevice,
  type ImageProblem,
  type OfflineWork,
  checkSettings,
  workSettings,
} from "@dmkit/block-io";
import { isSuperblockV1 } from "../format/superblock-v1.ts";
import { type Finding, type Report, newReport, plainWork } from "./inspect/findings.ts";
import { readStart } from "./image.ts";
import { inspectV1 } from "./inspect/inspect-v1.ts";
import { inspectV2 } from "./inspect/inspect-v2.ts";

/** Problems, with how they are put right. Throws `EFORMAT` if it is no such device, and the errors of the device. */
export async function* inspect(
  device: BlockDevice,
  work: OfflineWork,
  report: Report,
): AsyncIterable<Finding> {
  checkSettings(workSettings, work);
  if (isSuperblockV1(await readStart(device))) yield* inspectV1(device, work, report);
  else yield* inspectV2(device, work, report);
}

/** All problems. Reads every payload, and fills in `report`. Throws as {@link inspect}. */
export async function* check(
  device: BlockDevice,
  work: OfflineWork = plainWork,
  report: Report = newReport(),
): AsyncIterable<ImageProblem> {
  for await (const { problem } of inspect(device, work, report)) yield problem;
}
