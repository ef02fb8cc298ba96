/** What changes of a named device can be told. */
import type { MessageOptions } from "@dmkit/block-io";
import type { NamedDevice } from "./device/named-device.ts";

export interface TableOptions {
  /** Open every device below read-only. Default: false for `create`, as it was for `reload`. */
  readonly readOnly?: boolean | undefined;
  /** Where relative paths in the table start; default: the process's folder. Tables are shown with absolute ones. */
  readonly folder?: string | undefined;
}

export interface ReloadOptions extends TableOptions {
  /** Even if what the present table keeps in memory, or cannot bring home from a cache, is lost. */
  readonly force?: boolean | undefined;
}

export interface SuspendOptions {
  /** Wait until requests in flight are answered and all is flushed. Default true. */
  readonly flush?: boolean | undefined;
  /** Ends the wait: the device goes on, unless it was suspended before. */
  readonly signal?: AbortSignal | undefined;
}

export interface RemoveOptions {
  /** Whether or not its storage answers, and exports that are being withdrawn still have clients. */
  readonly force?: boolean | undefined;
  /** Milliseconds that `force` waits for the storage. Default 10,000. */
  readonly patience?: number | undefined;
  /** What `force` does first, when nothing stands in its way any more: disconnects clients. */
  readonly withdraw?: ((device: NamedDevice) => Promise<void>) | undefined;
  /** Takes it back as long as it has not begun. */
  readonly signal?: AbortSignal | undefined;
}

export interface ResumeOptions extends Pick<RemoveOptions, "signal"> {
  /** How far the old table is with what it has to bring home. */
  readonly progress?: MessageOptions["progress"];
}
