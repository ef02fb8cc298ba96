/** What the log knows of its archive, and what it tells. Without an archive nothing waits for one. */
export class ArchiveState {
  /** The last segment that is in the archive. */
  last: number = Number.POSITIVE_INFINITY;
  /** Called when a segment has been opened. */
  onOpened: (id: number) => void = () => {};
  /** Called when a segment has been closed. */
  onClosed: (id: number) => void = () => {};
  /** Called when somebody waits for segments up to `id` to be there. */
  onWanted: (id: number) => void = () => {};
}
