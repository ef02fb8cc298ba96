/** The devices a stack lies on. */
import type { BlockDevice } from "@dmkit/block-io";
import type { LayerDevices } from "./layer.ts";

/** The devices of a stack. The caller keeps them and closes them, after the stack. */
export interface StackDevices {
  readonly base: BlockDevice;
  /** Bytes. */
  readonly baseOffset: number;
  /** Bottom to top; at least one. */
  readonly layers: readonly LayerDevices[];
  /** Sectors of the target. */
  readonly sectors: number;
}
