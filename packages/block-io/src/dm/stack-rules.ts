/** What a stack file asks a target besides its table of options: its defaults, what goes together, how long it is. */

/** Options by name as somebody wrote them, or as they were checked. */
export type NamedOptions = Readonly<Record<string, unknown>>;

/**
 * The length of a device that takes it from what lies below: the shortest of the parts, each counted from its
 * offset and rounded down to a multiple, times the number of parts.
 */
export interface LengthRule {
  readonly parts: readonly {
    /** A path, URI or `dm:NAME`. */
    readonly of: string;
    /** Sectors. */
    readonly offset: number;
  }[];
  /** Sectors. */
  readonly multiple: number;
}

/** All of it may be left out: a target then has its table's defaults, and a device of it says its size. */
export interface StackRules<Options> {
  /** Values of options that are not given, where a stack file should differ from a table. */
  defaults?(given: NamedOptions): NamedOptions;
  /** What is wrong between options that are right by themselves: the option, and what to do. */
  conflict?(options: Options): { readonly option: string; readonly what: string } | undefined;
  /** How long a device is that does not say its size. */
  length?(options: Options): LengthRule;
}

/** As long as what is left of a device from a sector on. */
export function restOf(device: string, offset = 0): LengthRule {
  return { parts: [{ of: device, offset }], multiple: 1 };
}
