/** What an exchange of tables is given by whoever manages devices. */
import type { FilesBelow, Logger, MessageOptions, Segment } from "@dmkit/block-io";
import type { OpenedTable } from "../device/opened-table.ts";

export interface ExchangeContext {
  readonly logger: Logger;
  readonly open: (
    segments: readonly Segment[],
    readOnly: boolean,
    files?: FilesBelow,
  ) => Promise<OpenedTable>;
  /** The lines of the table in place, with what messages have changed; none if there is none. */
  readonly lines: () => readonly Segment[];
  /** Ends it as long as the old table is not closed. */
  readonly signal?: AbortSignal | undefined;
  readonly progress?: MessageOptions["progress"];
}
