/** How a log is read. */
import type { Environment } from "@dmkit/block-io";
import type { Dialect } from "../format/checksum.ts";

export interface ScanOptions {
  /** Refuse any other; default: what is on the device. */
  readonly order?: number | undefined;
  /** Refuse any other; default: what is on the device. Of a log without segments and identity record: what it is. */
  readonly dialect?: Dialect | undefined;
  /** As if sector 0 were a header with this order, whatever is there. */
  readonly assumeOrder?: number | undefined;
  /** Checksum every segment, also those that recovery has no need to look into. */
  readonly thorough?: boolean | undefined;
  /** Called now and then with the slots read so far. */
  readonly progress?: ((slots: number, of: number) => void) | undefined;
  /** Ends the scan, which rejects with its reason. */
  readonly signal?: AbortSignal | undefined;
  /** Default: the real one. */
  readonly environment?: Environment | undefined;
}
