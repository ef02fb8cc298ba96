/**
 * Merging a layer below the top while the stack is in use; the order is in copy/merge.ts.
 *
 * Invariants: clients wait only while the layer above is given its new parent; what was open for writing because of a merge
 * is only read again when it is over, however it ends; nothing is copied any more when the device has been closed.
 */
import { BlockIoError, type LongWork, SECTOR, refuse, toBlockIoError } from "@dmkit/block-io";
import { copyDown, ownIdentity, relinking, requireBelowTop, requireMergeable } from "../copy/merge.ts";
import { type LayerDevices, writeIdentity } from "../layer/layer.ts";
import type { StackDevices } from "../layer/stack-devices.ts";
import type { Layers } from "../layers.ts";
import type { CowParts } from "../parts.ts";

/** What merging needs of the device. */
export interface MergeHost {
  readonly name: string;
  readonly now: Pick<Layers, "stack" | "top" | "replace">;
  readonly parts: Pick<CowParts, "environment" | "merging" | "rules">;
  /** Lets requests under way finish, flushes, and holds new ones back while it is this work's turn. */
  hold(): Promise<void>;
  /** What is on disk is not known any more. */
  fail(failure: BlockIoError): void;
}

/** Runs work that may hold requests back. */
export type InTurn = (work: (host: MergeHost) => Promise<void>) => Promise<void>;

export class Merging {
  #copying: { readonly ending: AbortController; readonly over: Promise<unknown> } | undefined;
  #isBusy = false;

  /** Whether a layer is being merged: the numbers of the others are about to change. */
  get isBusy(): boolean {
    return this.#isBusy;
  }

  /** Merges a layer, from 1 at the bottom. Errors: `EINVAL`, `EBUSY`, `EROFS`, those of copying. */
  async run(
    { name, parts, now }: Omit<MergeHost, "hold">,
    inTurn: InTurn,
    layer: number,
    { signal, progress }: LongWork,
  ): Promise<void> {
    if (now.top === undefined)
      throw refuse(name, "EROFS", "the stack is read-only", "Open it for writing.", "message");
    requireBelowTop(now.stack, layer, name);
    if (this.#isBusy) throw busy(name);
    this.#isBusy = true;
    try {
      const stack = (await parts.merging?.begin(layer)) ?? now.stack;
      let isDone = false;
      try {
        requireMergeable(stack, layer);
        const total = stack.sectors;
        const tell = (bytes: number): void => progress?.({ done: bytes / SECTOR, total, unit: "sectors" });
        for (const step of parts.rules.merge) {
          if (step === "copy") await this.#copy(stack, layer, parts.environment, signal, tell);
          else await inTurn((host) => link(host, stack, layer));
        }
        isDone = true;
      } finally {
        await parts.merging?.end(layer, isDone);
      }
    } finally {
      this.#isBusy = false;
    }
  }

  /** Ends the copying. Resolves when nothing is copied any more. */
  async close(): Promise<void> {
    this.#copying?.ending.abort(
      new BlockIoError("the device was closed", {
        code: "ESHUTDOWN",
        op: "message",
        hint: "Commit it again.",
      }),
    );
    await this.#copying?.over;
  }

  async #copy(
    stack: StackDevices,
    layer: number,
    environment: CowParts["environment"],
    signal: AbortSignal | undefined,
    progress: (bytes: number) => void,
  ): Promise<void> {
    const ending = new AbortController();
    const either = signal === undefined ? ending.signal : AbortSignal.any([signal, ending.signal]);
    const copying = copyDown(stack, layer, { environment, signal: either, progress });
    this.#copying = { ending, over: Promise.allSettled([copying]) };
    await copying.finally(() => (this.#copying = undefined));
  }
}

/** The refusal of what changes the layers while one is merged. */
export function busy(name: string): BlockIoError {
  const hint = "Wait for that to end; Ctrl-C ends it, and the stack is as it was.";
  return refuse(name, "EBUSY", "a layer is being committed", hint, "message");
}

async function link(host: MergeHost, stack: StackDevices, layer: number): Promise<void> {
  // What lies below is nobody else's by now, and clients need not wait for it to be read.
  const change = await relinking(stack, layer);
  await host.hold();
  const above = stack.layers[layer] as LayerDevices;
  const isTop = layer + 1 === stack.layers.length;
  const identity = isTop ? undefined : await ownIdentity(above, layer + 1, stack.sectors);
  try {
    if (identity === undefined) await host.now.top?.record.change(change);
    else await writeIdentity(above.bitmap, change(identity));
  } catch (error) {
    // It may have landed or not. Going on could write what only one of the two stacks shows.
    const failure = unsure(host, error);
    host.fail(failure);
    throw failure;
  }
  host.now.replace({ ...stack, layers: stack.layers.filter((_, index) => index !== layer - 1) });
}

function unsure({ name }: MergeHost, error: unknown): BlockIoError {
  const cause = toBlockIoError(error, { device: name, op: "message" });
  return new BlockIoError(`whether the layer is still part of the stack is not known: ${cause.message}`, {
    code: "EIO",
    device: name,
    op: "message",
    cause,
    hint: "Open it again as it was; if it says that the layer above lies on another one, without the committed layer.",
  });
}
