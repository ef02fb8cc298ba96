/**
 * Sizes of the objects in a slab. Steps of 16 bytes up to 256 and of 32 up to the largest compressed page keep
 * what rounding up wastes at about 2 % of a page that compresses to a third; a huge page has a class of its own.
 */

/** Bytes of a page. */
export const PAGE = 4096;

/** Bytes above which a compressed page saves too little and is stored as it is. */
export const MAX_COMPRESSED = 3072;

const SMALL = 256;
const SMALL_STEP = 16;
const STEP = 32;

/** Bytes of an object, by class; ascending. */
export const classSizes: readonly number[] = [
  ...Array.from({ length: SMALL / SMALL_STEP }, (_, index) => (index + 1) * SMALL_STEP),
  ...Array.from({ length: (MAX_COMPRESSED - SMALL) / STEP }, (_, index) => SMALL + (index + 1) * STEP),
  PAGE,
];

export const HUGE_CLASS: number = classSizes.length - 1;

/** The smallest class that holds `length` bytes, 1 … 4096. */
export function classOf(length: number): number {
  if (length <= SMALL) return Math.ceil(length / SMALL_STEP) - 1;
  if (length <= MAX_COMPRESSED) return SMALL / SMALL_STEP + Math.ceil((length - SMALL) / STEP) - 1;
  return HUGE_CLASS;
}
