/** What opening is told besides the options. */
import type { CompressionRules } from "../core/rules.ts";

/** For callers with needs of their own. */
export interface OpenSettings {
  /** Compress and decompress at once, on this thread: for the simulation, where every run must be the same. */
  readonly synchronous?: boolean | undefined;
}

/** The same, with what is left out, and the rules. */
export interface Opening {
  readonly synchronous: boolean;
  readonly rules: CompressionRules;
}
