/** What is wrong with an image, as its check says. */
import { type BlockDevice, realEnvironment } from "@dmkit/block-io";
import type { Problem } from "../../src/index.ts";
import { examine } from "../../src/offline/examine/examine.ts";
import type { ScanOptions } from "../../src/open/scan-options.ts";

export async function check(
  cache: BlockDevice,
  backing: BlockDevice,
  { plog, ...options }: Pick<ScanOptions, "order" | "dialect"> & { plog?: BlockDevice | undefined } = {},
): Promise<Problem[]> {
  const { findings } = await examine({ cache, backing, plog }, { environment: realEnvironment, ...options });
  return findings.map(({ problem }) => problem);
}
