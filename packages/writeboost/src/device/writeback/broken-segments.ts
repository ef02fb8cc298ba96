/** Segments that could not be written back as they are, until somebody is told, and why. */
import { BlockIoError } from "@dmkit/block-io";

const MOST_NAMED = 20;

export class BrokenSegments {
  readonly #errors: Map<number, BlockIoError> = new Map();
  /** How far others have been written past them. */
  past = 0;

  get size(): number {
    return this.#errors.size;
  }

  get #ids(): number[] {
    return [...this.#errors.keys()].sort((a, b) => a - b);
  }

  /** The last segment before the first of them; Infinity where there is none. */
  get end(): number {
    return (this.#ids[0] ?? Number.POSITIVE_INFINITY) - 1;
  }

  add(errors: ReadonlyMap<number, BlockIoError>): void {
    for (const [id, error] of errors) this.#errors.set(id, error);
  }

  has(id: number): boolean {
    return this.#errors.has(id);
  }

  forget(): void {
    this.#errors.clear();
    this.past = 0;
  }

  /** Whether the first of them cannot be read, and writers need its slot: then that is given up. */
  isGivenUp(needed: number): boolean {
    const id = this.end + 1;
    return id <= needed && this.#errors.get(id)?.cause !== undefined;
  }

  /** Why the first cannot be used, and which others. There must be one. */
  error(): BlockIoError {
    const ids = this.#ids;
    const first = this.#errors.get(ids[0] as number) as BlockIoError;
    if (ids.length === 1) return first;
    const { code, device, op, offset, length, hint } = first;
    const rest = ids.slice(1, MOST_NAMED).join(", ");
    return new BlockIoError(`${first.reason}; nor can ${rest}${ids.length > MOST_NAMED ? " …" : ""}`, {
      code,
      device,
      op,
      offset,
      length,
      cause: first,
      hint,
    });
  }
}
