/** What a device is opened with, besides what was found. */
import type { Environment } from "@dmkit/block-io";
import type { Rules } from "../core/rules.ts";
import type { Tunables } from "../options.ts";
import type { Archiving, SegmentArchive } from "./archive/segment-archive.ts";

export interface DeviceSettings {
  readonly name: string;
  /** Bytes; at most the backing device's. */
  readonly size: number;
  /** RAM buffers. */
  readonly pool: number;
  readonly tunables: Partial<Tunables>;
  readonly environment: Environment;
  /** Where the log is archived, and how. */
  readonly archive?: (Archiving & { readonly to: SegmentArchive }) | undefined;
  /** Nothing is written back, recorded or accepted; the devices keep what recovery has written. */
  readonly readOnly?: boolean | undefined;
  readonly rules?: Rules | undefined;
}
