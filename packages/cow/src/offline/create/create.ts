/** `create`: gives a layer its identity, and freezes the one it lies on. */
import {
  type BlockDevice,
  type Environment,
  SECTOR,
  type SettingsTable,
  randomUuid,
  realEnvironment,
  refuse,
  checkSettings,
  setting,
} from "@dmkit/block-io";
import { relianceOn } from "../../core/reliance.ts";
import { nameOf } from "../../core/stacking.ts";
import { checkSectors } from "../../format/geometry.ts";
import type { Snapshot } from "../../format/snapshot.ts";
import type { Identity } from "../../format/identity.ts";
import {
  type LayerDevices,
  readIdentity,
  requireBlankLayer,
  requireEmpty,
  requireLayerRoom,
  writeIdentity,
} from "../../device/layer/layer.ts";
import { judgeData, takeLabel } from "../../device/layer/pairing.ts";

/** How a layer is made. */
export interface CreateOptions {
  /** Sectors of the target. */
  readonly sectors: number;
  /** The bitmap device of the layer below; it is frozen, if it can be written. Left out: the base is below. */
  readonly below?: BlockDevice | undefined;
  /** Bytes: where the target starts on the base, in a layer that lies on the base. Left out: known when it is opened. */
  readonly baseOffset?: number | undefined;
  /** What the layer below is from then on; its bitmap must be writable. Left out: what it was. */
  readonly snapshot?: Snapshot | undefined;
  readonly environment?: Environment;
  /** The devices need not be blank, nor the label free, but for the bitmap itself: that is for the caller to see to. Default false. */
  readonly force?: boolean;
}

const createSettings: SettingsTable<CreateOptions> = {
  sectors: setting.needed(setting.integer(1, Number.MAX_SAFE_INTEGER)),
  below: setting.device,
  baseOffset: setting.integer(0, Number.MAX_SAFE_INTEGER),
  snapshot: setting.object,
  environment: setting.environment,
  force: setting.flag,
};

/** Makes a new, empty layer. Errors: EEXIST if it is one already, EFORMAT, EINVAL, those of the devices. */
export async function createLayer(layer: LayerDevices, options: CreateOptions): Promise<Identity> {
  const {
    sectors,
    below,
    baseOffset,
    snapshot,
    environment = realEnvironment,
    force = false,
  } = checkSettings(createSettings, options);
  checkSectors(sectors);
  requireLayerRoom(layer, sectors);
  const found = await readIdentity(layer.bitmap, sectors);
  if (found.kind !== "new") {
    throw refuse(
      layer.bitmap.name,
      "EEXIST",
      "there is something on the bitmap device already",
      "Give a new file, or one full of zeroes.",
    );
  }
  if (!force) {
    await refuseOthersData(layer, sectors);
    await requireBlankLayer(layer, sectors, { force, code: "EEXIST" });
  }
  await requireEmpty(layer.bitmap, sectors);
  const parent = below === undefined ? undefined : await readIdentity(below, sectors);
  if (parent !== undefined && parent.kind !== "layer" && parent.kind !== "original") {
    throw refuse(
      below?.name,
      "EFORMAT",
      "the layer below has no sound identity for this length",
      "Check that it is the bitmap device of a layer of the same length.",
    );
  }
  if (snapshot !== undefined && below?.limits.capabilities.readOnly === true)
    throw refuse(below.name, "EROFS", "can only be read", "Open it for writing to make it a snapshot.");
  const identity = {
    uuid: randomUuid(environment.random),
    parent: nameOf(parent),
    ...relianceOn(parent),
    sectors,
    frozen: false,
    dataOffset: layer.offset / SECTOR,
    baseOffset: parent === undefined && baseOffset !== undefined ? baseOffset / SECTOR : undefined,
  };
  await writeIdentity(layer.bitmap, identity);
  const labelled = await takeLabel(layer, identity, force);
  // The new layer first: a frozen layer without one on it could not be opened as it was used to be.
  if (below !== undefined && parent?.kind === "layer" && !below.limits.capabilities.readOnly) {
    const named = snapshot === undefined ? {} : { snapshot };
    await writeIdentity(below, { ...parent.identity, ...named, frozen: true });
  }
  return labelled;
}

async function refuseOthersData(layer: LayerDevices, sectors: number): Promise<void> {
  const verdict = await judgeData(layer, { kind: "new" }, sectors);
  if (verdict === undefined) return;
  throw refuse(
    layer.data.name,
    "EEXIST",
    verdict.reason,
    "Give a data device that no layer has been written to.",
  );
}
