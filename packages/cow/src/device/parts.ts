/** What a running stack is put together from. */
import type { BlockDevice, Environment, GuardedDevice, Limits } from "@dmkit/block-io";
import type { Snapshots } from "../core/snapshots.ts";
import type { OwnerMap } from "../core/owner-map.ts";
import type { CowRules } from "../core/rules.ts";
import type { BitmapLoader } from "./bitmap-loader.ts";
import type { BitmapWriter } from "./bitmap-writer.ts";
import type { WithBitmap } from "./layer/freezing.ts";
import type { LayerDevices } from "./layer/layer.ts";
import type { StackDevices } from "./layer/stack-devices.ts";
import type { TopRecord } from "./top-record.ts";

/** A layer to be put on top. */
export interface NewLayer extends LayerDevices {
  /** Its devices need not be blank. Default false. */
  readonly force?: boolean;
  /** What a table calls it; for the table's text only. */
  readonly names?: { readonly bitmap: string; readonly data: string };
  /** Closes its devices, where it could not be put on top. */
  readonly giveBack?: () => Promise<void>;
}

/** Where a layer goes that is taken out of a stack: into what it lies on, or into the layer above. */
export type MergeWay = "down" | "up";

/** One owner: a device and the byte where it starts. */
export interface Source {
  readonly device: BlockDevice;
  readonly offset: number;
}

/** Who may have a sector of a stack: the base, then the layers bottom to top. */
export function sourcesOf({ base, baseOffset, layers }: StackDevices): readonly Source[] {
  return [
    { device: base, offset: baseOffset },
    ...layers.map(({ data, offset }) => ({ device: data, offset })),
  ];
}

/** What a device is put together from; see open/open.ts. */
export interface CowParts {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly limits: Limits;
  readonly map: OwnerMap;
  readonly loader: BitmapLoader;
  /** By owner: the base, then the layers bottom to top. */
  readonly sources: readonly Source[];
  /** Undefined: the stack is read-only. */
  readonly top?: { readonly writer: BitmapWriter; readonly layer: LayerDevices; readonly record: TopRecord };
  readonly stack: StackDevices;
  /** Which of the layers are snapshots, bottom to top. */
  readonly snapshots: Snapshots;
  /** Opens a part of the stack, from the bottom up, to be read. */
  readonly view: (stack: StackDevices) => Promise<GuardedDevice>;
  /** Milliseconds; 0: none. */
  readonly autocommit: number;
  readonly environment: Environment;
  readonly rules: CowRules;
  /** Opens devices that the message `freeze` names. */
  readonly openLayer?: ((words: readonly string[]) => Promise<NewLayer>) | undefined;
  /** Told of every layer put on top while running. */
  readonly frozen?: ((layer: NewLayer) => void) | undefined;
  /**
   * What is open for reading only is opened for writing while a layer is merged: `begin` gives the stack with it, `end` takes
   * it back, and lets go of the merged layer if that is done. Left out: everything is open for writing as it is.
   */
  readonly merging?:
    | {
        begin(layer: number, way: MergeWay): Promise<StackDevices>;
        end(layer: number, isDone: boolean): Promise<void>;
        /** For layers below the top. */
        readonly withBitmap: WithBitmap;
      }
    | undefined;
  /** `layers` of a table, as they are now. */
  readonly layers?: (() => { readonly layers: unknown }) | undefined;
  /** The arguments in a table with these settings. */
  readonly table?: ((settings: Readonly<Record<string, unknown>>) => readonly string[]) | undefined;
}
