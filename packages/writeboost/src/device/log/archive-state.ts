/** What the log knows of its archive, and what it tells. Without an archive nothing waits for one. */
import { done } from "@dmkit/block-io";

export class ArchiveState {
  /** The last segment that is in the archive. */
  last: number = Number.POSITIVE_INFINITY;
  /** Called when a segment has been opened. */
  onOpened: (id: number) => void = () => {};
  /** Called when a segment has been closed. */
  onClosed: (id: number) => void = () => {};
  /** Waits until something may have brought segments up to `id` there. Throws when there is no waiting any more. */
  waitFor: (id: number) => Promise<void> = () => done;
}
