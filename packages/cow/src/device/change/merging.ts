/**
 * Taking a layer below the top out of the stack while it is in use: it is committed into what it lies on, or, if it is a
 * snapshot, copied up into the layer above. The order is in copy/merge.ts.
 *
 * Invariants: clients wait only while the layer above is given its new parent, and for what is copied into the top just where
 * they write; what was open for writing because of a merge is only read again when it is over, however it ends; nothing is
 * copied any more when the device has been closed.
 */
import { BlockIoError, type LongWork, SECTOR, isOfPlace, refuse, toBlockIoError } from "@dmkit/block-io";
import type { MergeStep } from "../../core/rules.ts";
import { copyDown, ownIdentity, relinking, requireBelowTop, requireMergeable } from "../copy/merge.ts";
import { copyUp } from "../copy/up.ts";
import type { WorkOptions } from "../copy/work.ts";
import { type LayerDevices, writeIdentity } from "../layer/layer.ts";
import type { StackDevices } from "../layer/stack-devices.ts";
import type { Layers } from "../layers.ts";
import type { CowParts, MergeWay } from "../parts.ts";
import { type Filled, Filling } from "./filling.ts";

/** What merging needs of the device. */
export interface MergeHost {
  readonly name: string;
  readonly now: Pick<Layers, "stack" | "top" | "leaveOut">;
  readonly parts: Pick<CowParts, "environment" | "merging" | "rules">;
  readonly filled: Filled;
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
  #filling: Filling | undefined;
  /** Nothing is copied any more. */
  #ended: BlockIoError | undefined;

  /** Whether a layer is being merged: the numbers of the others are about to change. */
  get isBusy(): boolean {
    return this.#isBusy;
  }

  /** Exists while something is copied into the top: who writes to it has to go through this. */
  get filling(): Filling | undefined {
    return this.#filling;
  }

  /** Merges a layer, from 1 at the bottom. Errors: `EINVAL`, `EBUSY`, `EROFS`, those of copying. */
  async run(
    { name, parts, now }: Omit<MergeHost, "hold">,
    inTurn: InTurn,
    way: MergeWay,
    layer: number,
    { signal, progress }: LongWork,
  ): Promise<void> {
    if (now.top === undefined)
      throw refuse(name, "EROFS", "the stack is read-only", "Open it for writing.", "message");
    requireBelowTop(now.stack, layer, name);
    if (this.#isBusy) throw busy(name);
    this.#isBusy = true;
    try {
      const stack = (await parts.merging?.begin(layer, way)) ?? now.stack;
      let isDone = false;
      try {
        requireMergeable(stack, layer, way);
        const total = stack.sectors;
        const tell = (bytes: number): void => progress?.({ done: bytes / SECTOR, total, unit: "sectors" });
        const work = { environment: parts.environment, signal, progress: tell };
        for (const step of way === "down" ? parts.rules.merge : parts.rules.remove)
          await this.#step(step, inTurn, stack, layer, work);
        isDone = true;
      } finally {
        this.#filling = undefined;
        await parts.merging?.end(layer, isDone);
      }
    } finally {
      this.#isBusy = false;
    }
  }

  /** Ends the copying. Resolves when nothing is copied any more. */
  async close(): Promise<void> {
    const hint = "Run it again.";
    this.#ended ??= new BlockIoError("the device was closed", { code: "ESHUTDOWN", op: "message", hint });
    this.#copying?.ending.abort(this.#ended);
    await this.#copying?.over;
  }

  #step(
    step: MergeStep,
    inTurn: InTurn,
    stack: StackDevices,
    layer: number,
    work: WorkOptions,
  ): Promise<void> {
    if (step === "link") return inTurn((host) => link(host, stack, layer));
    if (step === "down") return this.#copy(work, (ended) => copyDown(stack, layer, ended));
    if (layer + 1 === stack.layers.length) return this.#fill(inTurn, work);
    const sources = stack.layers.slice(layer - 1, layer + 1);
    return this.#copy(work, (ended) => copyUp(stack, layer, layer + 1, sources, ended));
  }

  /** Copies what is right below the top into it. */
  async #fill(inTurn: InTurn, work: WorkOptions): Promise<void> {
    let filling: Filling | undefined;
    // None of the writes under way knows of it.
    await inTurn(async (host) => {
      await host.hold();
      filling = new Filling(host.filled, host.parts.rules.excludes);
      this.#filling = filling;
    });
    await this.#copy(work, async (ended) => filling?.run(ended)).catch((error: unknown) => {
      throw isOfPlace(error) ? left(error) : error;
    });
  }

  async #copy(
    { environment, signal, progress }: WorkOptions,
    work: (ended: WorkOptions) => Promise<unknown>,
  ): Promise<void> {
    if (this.#ended !== undefined) throw this.#ended;
    const ending = new AbortController();
    const either = signal === undefined ? ending.signal : AbortSignal.any([signal, ending.signal]);
    const copying = work({ environment, signal: either, progress });
    this.#copying = { ending, over: Promise.allSettled([copying]) };
    await copying.finally(() => (this.#copying = undefined));
  }
}

/** The refusal of what changes the layers while one is merged. */
export function busy(name: string): BlockIoError {
  const hint = "Wait for that to end; Ctrl-C ends it, and the stack is as it was.";
  return refuse(name, "EBUSY", "a layer is being committed, or a snapshot deleted", hint, "message");
}

/** The error of a place that ended copying into the top, with what to do. */
function left(cause: BlockIoError): BlockIoError {
  const { code, device, op, offset, length } = cause;
  const hint = "The snapshot is as it was. Replace the device with a copy that is whole, and run it again.";
  return new BlockIoError(`the snapshot is not deleted: ${cause.reason}`, {
    code,
    device,
    op,
    offset,
    length,
    cause,
    hint,
  });
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
  host.now.leaveOut(layer, stack);
}

function unsure({ name }: MergeHost, error: unknown): BlockIoError {
  const cause = toBlockIoError(error, { device: name, op: "message" });
  return new BlockIoError(`whether the layer is still part of the stack is not known: ${cause.message}`, {
    code: "EIO",
    device: name,
    op: "message",
    cause,
    hint: "Open it again as it was; if it says that the layer above lies on another one, without the layer that was taken out.",
  });
}
