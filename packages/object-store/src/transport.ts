/**
 * One attempt at a time: what a kind of store implements. {@link RetryingStore} makes an `ObjectStore` of it, with
 * time limits, repetition and the reading back of unclear outcomes; so these stand in one place for S3, folders and
 * the simulation.
 *
 * A failed attempt says two things that decide what comes next:
 *
 *     outcome     nothing     the store said that nothing was done
 *                 unclear     it may have been done, may be done later, or not
 *     again       no          trying again cannot help (no permission, no bucket)
 *                 yes         it may
 *                 slower      it may, and the store asked for fewer requests
 */
import { BlockIoError } from "@dmkit/block-io";
import type { BodyMemory, ObjectEntry, ObjectRange } from "./store.ts";

/** Why an attempt failed and what that means. */
export interface Failure {
  readonly error: BlockIoError;
  readonly outcome: "nothing" | "unclear";
  readonly again: "no" | "yes" | "slower";
}

/** What became of one attempt. */
export type Attempt<T> =
  | { readonly done: true; readonly value: T }
  | { readonly done: false; readonly failure: Failure };

/** What a conditional put was answered. */
export type Created = "created" | "exists";

/** One page of a listing. */
export interface ListPage {
  readonly entries: readonly ObjectEntry[];
  /** Whether more keys come behind the last one. */
  readonly more: boolean;
}

/**
 * Attempts never reject: everything that can go wrong is an {@link Attempt} that is not done. Bodies that are given are not
 * looked at any more once an attempt has settled, also where it may still be carried out.
 */
export interface ObjectTransport {
  readonly name: string;
  get(
    key: string,
    range: ObjectRange | undefined,
    most: number,
    signal: AbortSignal,
    memory?: BodyMemory,
  ): Promise<Attempt<Buffer>>;
  /** Undefined where there is none. */
  head(key: string, signal: AbortSignal): Promise<Attempt<ObjectEntry | undefined>>;
  /** Writes the object if there is none; must be atomic with every other `create` of the key. */
  create(key: string, body: Uint8Array, signal: AbortSignal): Promise<Attempt<Created>>;
  put(key: string, body: Uint8Array, signal: AbortSignal): Promise<Attempt<void>>;
  /** Entries behind `after` in the byte order of keys: the first of them, at least one where there is any. */
  list(prefix: string, after: string, signal: AbortSignal): Promise<Attempt<ListPage>>;
  remove(key: string, signal: AbortSignal): Promise<Attempt<void>>;
  close(): Promise<void>;
}

/** An attempt that worked. */
export function succeeded<T>(value: T): Attempt<T> {
  return { done: true, value };
}

/** An attempt that did not. */
export function failed(
  error: BlockIoError,
  outcome: Failure["outcome"],
  again: Failure["again"],
): Attempt<never> {
  return { done: false, failure: { error, outcome, again } };
}

/** The refusal of a body above the reader's bound. */
export function tooLarge(device: string, key: string, length: number, most: number): BlockIoError {
  return new BlockIoError(`${key} has ${length} bytes where ${most} are the most`, {
    code: "EOVERFLOW",
    device,
    op: "read",
    hint: "The object was not written by dmkit, or by a version with larger objects.",
  });
}
