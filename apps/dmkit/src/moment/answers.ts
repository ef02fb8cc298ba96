/** What a server answers who asks for a device as it was. */

/** How a client finds a moment. */
export interface Begun {
  readonly id: string;
  /** Of the one export with the device as it was. */
  readonly uri: string;
  /** What had begun by then, by name: ids as descriptions have them, see `RangeDescription`. */
  readonly epochs: Readonly<Record<string, string>>;
}

/** Some of what has changed, in order: offset and length in bytes. */
export interface Changed {
  readonly ranges: readonly (readonly [offset: number, length: number])[];
  /** Where the rest begins; the size of the device if there is none. */
  readonly next: number;
}
