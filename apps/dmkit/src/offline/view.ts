/** A writeboost device as it was at an earlier segment, read-only: what `serve --at` exports. */
import { type BlockDevice, type Environment, realEnvironment } from "@dmkit/block-io";
import { openAt } from "@dmkit/writeboost";
import { openReference } from "../devices.ts";

/** An opened view; `below` are the devices it does not close itself, to be closed after it. */
export interface OpenView {
  readonly name: string;
  readonly description: string;
  readonly device: BlockDevice;
  readonly below: readonly BlockDevice[];
}

/**
 * Opens cache and backing device read-only, and the view of segment `at` over them. Neither is written to. Errors:
 * `EINVAL` with the range for a segment that cannot be shown, `EFORMAT` for what is no cache, those of opening.
 */
export async function openView(
  references: { readonly cache: string; readonly backing: string },
  at: number,
  environment: Environment = realEnvironment,
): Promise<OpenView> {
  const below: BlockDevice[] = [];
  try {
    for (const reference of [references.cache, references.backing]) {
      below.push(await openReference(reference, "read", environment));
    }
    const [cache, backing] = below as [BlockDevice, BlockDevice];
    const device = await openAt({ cache, backing }, at);
    const description = `${references.backing} with ${references.cache} as of segment ${at}`;
    return { name: "", description, device, below: below.toReversed() };
  } catch (error) {
    for (const device of below) await device.close();
    throw error;
  }
}
