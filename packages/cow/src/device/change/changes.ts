/**
 * What changes the layers of a running stack: a new one on top, one that is taken out, and who reads a snapshot meanwhile.
 *
 * Invariant: one change at a time, and none but a new layer while a snapshot is read.
 */
import {
  type BlockDevice,
  type LongWork,
  unknownMessage,
  checkSettings,
  workSettings,
} from "@dmkit/block-io";
import { layerOfSnapshot, requireNoSnapshot } from "../../core/snapshots.ts";
import type { Layers } from "../layers.ts";
import type { CowParts, MergeWay, NewLayer } from "../parts.ts";
import type { Filling } from "./filling.ts";
import { type FreezeHost, freeze } from "./freeze.ts";
import { type MergeHost, Merging, busy } from "./merging.ts";
import { Views } from "./views.ts";

/** What changes need of the device. */
export type ChangeHost = FreezeHost & MergeHost;

/** What the changes are made to. */
export interface ChangedDevice {
  readonly parts: CowParts;
  readonly now: Layers;
  /** @param quiet holds requests back. */
  host(quiet: () => Promise<void>): ChangeHost;
  /** See the lifecycle of devices. */
  inTurn(work: (quiet: () => Promise<void>) => Promise<void>): Promise<void>;
}

export class Changes {
  readonly #device: ChangedDevice;
  readonly #merging = new Merging();
  readonly #views: Views;

  constructor(device: ChangedDevice) {
    this.#device = device;
    this.#views = new Views(device.parts, device.now);
  }

  /** Exists while something is copied into the top: who writes to it has to go through this. */
  get filling(): Filling | undefined {
    return this.#merging.filling;
  }

  /** Opens devices that are named, and puts them on top. Errors: those of opening, of `freeze`. */
  async freezeTo(words: readonly string[], name?: string): Promise<void> {
    const { parts, now } = this.#device;
    if (parts.openLayer === undefined) throw unknownMessage(parts.name, ["freeze", ...words]);
    if (this.#merging.isBusy) throw busy(parts.name);
    const layer = await parts.openLayer(words);
    try {
      await this.freeze(layer, name);
    } catch (error) {
      if (now.top?.layer !== layer) await layer.giveBack?.().catch(() => {});
      throw error;
    }
  }

  freeze(layer: NewLayer, name?: string): Promise<void> {
    return this.#device.inTurn((quiet) => {
      if (this.#merging.isBusy) throw busy(this.#device.parts.name);
      return freeze(this.#device.host(quiet), layer, name);
    });
  }

  /** Commits a layer, from 1 at the bottom. */
  async commit(layer: number, work: LongWork): Promise<void> {
    checkSettings(workSettings, work, "message");
    const { parts, now } = this.#device;
    if (now.top !== undefined) requireNoSnapshot(now.snapshots, [layer, layer - 1], parts.name);
    await this.#takeOut("down", layer, work);
  }

  async deleteSnapshot(name: string, work: LongWork): Promise<void> {
    checkSettings(workSettings, work, "message");
    const { parts, now } = this.#device;
    await this.#takeOut("up", layerOfSnapshot(now.snapshots, name, parts.name), work);
  }

  async openSnapshot(name: string): Promise<BlockDevice> {
    if (this.#merging.isBusy) throw busy(this.#device.parts.name);
    return this.#views.open(name);
  }

  /** Ends what is under way. Resolves when nothing is copied or read any more. */
  async close(): Promise<void> {
    await this.#merging.close();
    await this.#views.close();
  }

  async #takeOut(way: MergeWay, layer: number, work: LongWork): Promise<void> {
    this.#views.requireNone();
    const device = this.#device;
    const host = device.host(() => Promise.resolve());
    await this.#merging.run(host, (go) => device.inTurn((quiet) => go(device.host(quiet))), way, layer, work);
  }
}
