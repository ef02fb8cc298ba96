/**
 * Snapshots that are open to be read while the stack is in use.
 *
 * Invariant: while one is open no layer is taken out of the stack, or opened for writing, and the stack's devices are open.
 */
import { type BlockDevice, type GuardedDevice, refuse } from "@dmkit/block-io";
import { layerOfSnapshot } from "../../core/snapshots.ts";
import type { Layers } from "../layers.ts";
import type { CowParts } from "../parts.ts";

export class Views {
  readonly #name: string;
  readonly #now: Pick<Layers, "stack" | "snapshots">;
  readonly #view: CowParts["view"];
  /** What opens or is open, by the snapshot's name. */
  readonly #open: Map<object, string> = new Map();
  readonly #devices: Set<BlockDevice> = new Set();

  constructor({ name, view }: Pick<CowParts, "name" | "view">, now: Pick<Layers, "stack" | "snapshots">) {
    this.#name = name;
    this.#now = now;
    this.#view = view;
  }

  /** Opens a snapshot, read-only. Errors: `ENOENT`, those of opening the layers. */
  async open(name: string): Promise<BlockDevice> {
    const { stack, snapshots } = this.#now;
    const layers = stack.layers.slice(0, layerOfSnapshot(snapshots, name, this.#name));
    const key = {};
    this.#open.set(key, name);
    try {
      const device: GuardedDevice = await this.#view({ ...stack, layers });
      this.#devices.add(device);
      device.whenClosed(() => {
        this.#devices.delete(device);
        this.#open.delete(key);
      });
      return device;
    } catch (error) {
      this.#open.delete(key);
      throw error;
    }
  }

  /** Throws `EBUSY` while a snapshot is open. */
  requireNone(): void {
    const [name] = this.#open.values();
    if (name === undefined) return;
    const hint = "Wait for that to end; until then no layer is taken out of the stack.";
    throw refuse(this.#name, "EBUSY", `the snapshot ${JSON.stringify(name)} is being read`, hint, "message");
  }

  /** Who reads one is told that the device is closed. */
  async close(): Promise<void> {
    await Promise.all([...this.#devices].map((device) => device.close()));
  }
}
