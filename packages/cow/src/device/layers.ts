/**
 * What a running stack is made of now: its layers, which of them are snapshots, who has which sector, and the top that is written.
 *
 * Invariant: all of it changes in one turn, and only while no request is under way. Who goes on after waiting for something
 * else asks again.
 */
import { OwnerMap } from "../core/owner-map.ts";
import type { Snapshots } from "../core/snapshots.ts";
import type { Identity } from "../format/identity.ts";
import type { Snapshot } from "../format/snapshot.ts";
import { type BitmapLoader, STEP_SECTORS } from "./bitmap-loader.ts";
import { BitmapWriter } from "./bitmap-writer.ts";
import type { NewLayer } from "./parts.ts";
import type { Counters } from "./counters.ts";
import type { KnownRun } from "./depths.ts";
import type { StackDevices } from "./layer/stack-devices.ts";
import { type CowParts, type Source, sourcesOf } from "./parts.ts";
import { TopRecord } from "./top-record.ts";

export class Layers {
  map: OwnerMap;
  loader: BitmapLoader;
  sources: readonly Source[];
  stack: StackDevices;
  /** Undefined: the stack is read-only. */
  top: CowParts["top"];
  /** Something has been written to the top since it is the top. */
  written = false;
  snapshots: Snapshots;
  readonly #parts: CowParts;

  constructor(parts: CowParts) {
    this.#parts = parts;
    this.map = parts.map;
    this.loader = parts.loader;
    this.sources = parts.sources;
    this.stack = parts.stack;
    this.top = parts.top;
    this.snapshots = parts.snapshots;
  }

  /** A new layer is the top; `snapshot` is what the old one is by now. */
  push(layer: NewLayer, identity: Identity, snapshot?: Snapshot): void {
    const { rules } = this.#parts;
    rules.push(this.map);
    this.loader.push(layer);
    this.sources = [...this.sources, { device: layer.data, offset: layer.offset }];
    this.stack = { ...this.stack, layers: [...this.stack.layers, layer] };
    this.snapshots = [...this.snapshots.slice(0, -1), snapshot, undefined];
    this.written = false;
    const record = new TopRecord(layer.bitmap, identity, rules);
    const writer = new BitmapWriter(this.map, layer.bitmap, layer.data, rules);
    this.top = { layer, record, writer };
    this.#parts.frozen?.(layer);
  }

  /** Goes on without a layer below the top, from 1 at the bottom: the others show the same. Nothing may be dirty. */
  leaveOut(layer: number, { layers: all, ...stack }: StackDevices): void {
    if (this.map.hasDirty) throw new Error("layers: bits that are not written would be forgotten");
    const { sectors } = stack;
    const layers = all.toSpliced(layer - 1, 1);
    this.stack = { ...stack, layers };
    this.snapshots = this.snapshots.toSpliced(layer - 1, 1);
    this.sources = sourcesOf(this.stack);
    // What the bitmaps say is all there is: it is read again where it is needed.
    this.map = new OwnerMap(sectors, layers.length);
    this.loader = this.loader.without(this.map, layers);
    if (this.top === undefined) return;
    const { bitmap, data } = this.top.layer;
    this.top = { ...this.top, writer: new BitmapWriter(this.map, bitmap, data, this.#parts.rules) };
  }

  /** The run of one owner that starts at `sector`, which is made known first; as it is when this resolves. */
  async knownRun(sector: number, end: number, counters: Counters): Promise<KnownRun> {
    // Not more than a piece of the bitmaps at a time: a query over all of a large device may stop early.
    let until = Math.min(end, sector + STEP_SECTORS);
    while (!this.map.isKnown(sector, until - sector)) {
      const { loader } = this;
      try {
        until = await counters.preparing(loader.loadUpTo(sector, until));
      } catch (error) {
        // Of layers that are not among them any more nobody needs to know.
        if (loader === this.loader) throw error;
      }
    }
    const { sources } = this;
    const owner = this.map.owner(sector);
    const source = sources[owner] as Source;
    return { until: this.map.runEnd(sector, until), depth: this.map.top - owner, source, sources };
  }
}
