/**
 * How an image is doing, by what became of the blobs that were asked for: a store that does not answer is degraded until
 * something comes again; a blob that is damaged in the store, or not there, needs a check until it has come.
 */
import { type BlockIoError, type Health, codeOf, healthy, wholeStory } from "@dmkit/block-io";
import type { Digest } from "../format/digest.ts";

// Blobs that are remembered; one is enough to tell.
const MOST = 1000;

export class BlobHealth {
  readonly #lost: Map<Digest, Health> = new Map();
  #store: Health = healthy;

  /** The worst of what is known. */
  get health(): Health {
    const [lost] = this.#lost.values();
    if (lost === undefined) return this.#store;
    const others = this.#lost.size === 1 ? "" : `; so it is with ${this.#lost.size - 1} others`;
    return { ...lost, why: `${lost.why}${others}` };
  }

  /** The blob came from the store. */
  came(digest: Digest): void {
    this.#store = healthy;
    this.#lost.delete(digest);
  }

  /** @param now milliseconds since 1970. */
  failed(digest: Digest, error: BlockIoError, now: number): void {
    const code = codeOf(error);
    // Only that the device, or its store, was closed.
    if (code === "ESHUTDOWN") return;
    const { state, why, help } = { state: "degraded", why: wholeStory(error), help: error.hint } as const;
    if (code !== "EIO" && code !== "ENOENT") this.#store = { state, since: now, why, help };
    else if (this.#lost.size < MOST) this.#lost.set(digest, { state: "needs check", since: now, why, help });
  }
}
