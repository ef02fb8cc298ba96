/**
 * Freezing the top layer while the stack is in use. Order, and what a crash leaves after each step:
 *
 *      1  the new layer is checked                                   nothing has changed
 *         layers below the top that nobody has frozen are         the same stack opens
 *         marked as frozen, too, if that can be
 *      2  requests are held back, those under way finish, flush      the top has all that was answered
 *         with `force` the new layer's devices are cleared           the new layer is new
 *      3  identity of the new layer, stable                          both stacks open: the new layer is empty
 *      4  the flag `frozen` in the old top, stable, and with it      only the stack with the new layer opens for
 *         the name of the snapshot, if it is to be one               writing, with the same contents
 *      5  the new layer is the top, requests go on
 */
import { BlockIoError, type Limits, SECTOR, randomUuid, refuse, toBlockIoError } from "@dmkit/block-io";
import { MAX_LAYERS } from "../../core/owner-map.ts";
import { type Snapshots, requireNewName } from "../../core/snapshots.ts";
import type { Identity } from "../../format/identity.ts";
import type { Snapshot } from "../../format/snapshot.ts";
import {
  type LayerDevices,
  readIdentity,
  requireBlankLayer,
  requireEmpty,
  requireLayerRoom,
  writeIdentity,
} from "../layer/layer.ts";
import { freezeLayers } from "../layer/freezing.ts";
import { judgeData, sampleData, takeLabel } from "../layer/pairing.ts";
import { requireOwnPlaces } from "../layer/places.ts";
import type { StackDevices } from "../layer/stack-devices.ts";
import type { CowParts, NewLayer } from "../parts.ts";

/** What freezing needs of the device. */
export interface FreezeHost {
  readonly name: string;
  readonly limits: Limits;
  /** As it is before the freeze. */
  readonly now: {
    readonly stack: StackDevices;
    readonly snapshots: Snapshots;
    readonly top: CowParts["top"];
    push(layer: NewLayer, identity: Identity, snapshot?: Snapshot): void;
  };
  readonly parts: Pick<CowParts, "environment" | "merging">;
  /** Lets requests under way finish, flushes, and holds new ones back until the freeze is over. */
  hold(): Promise<void>;
  /** What is on disk is not known any more. */
  fail(failure: BlockIoError): void;
}

/** @param name of the snapshot that the old top is from then on; undefined: none. */
export async function freeze(host: FreezeHost, layer: NewLayer, name?: string): Promise<void> {
  const { top } = host.now;
  if (top === undefined) {
    throw refusal(host, "EROFS", "the stack is read-only", "Open it for writing to put a layer on it.");
  }
  if (name !== undefined) requireNewName(host.now.snapshots, name, host.name);
  if (host.now.stack.layers.length >= MAX_LAYERS) {
    const hint = "Commit some of them, or delete snapshots, first.";
    throw refusal(host, "EINVAL", `there are ${MAX_LAYERS} layers, which is all there can be`, hint);
  }
  requireLayerRoom(layer, host.now.stack.sectors);
  checkDevices(host, layer);
  const begun = await checkBlank(layer, host);
  await freezeLayers(host.now.stack, host.now.stack.layers.length - 1, {
    name: host.name,
    environment: host.parts.environment,
    withBitmap: host.parts.merging?.withBitmap.bind(host.parts.merging),
  });
  await host.hold();
  // Not before: where that fails whatever is on these devices stays there.
  if (begun === undefined && layer.force === true)
    await requireBlankLayer(layer, host.now.stack.sectors, FORCE);
  const identity = {
    // One that was cut short has named the layer already, and maybe labelled its data.
    uuid: begun?.uuid ?? randomUuid(host.parts.environment.random),
    parent: top.record.identity.uuid,
    contentsBelow: top.record.identity.contents,
    sectors: host.now.stack.sectors,
    frozen: false,
    dataOffset: layer.offset / SECTOR,
  };
  await writeIdentity(layer.bitmap, identity);
  const labelled = await takeLabel(layer, identity, layer.force);
  const snapshot = name === undefined ? undefined : { name, made: host.parts.environment.clock.wallTime() };
  await seal(host, top, snapshot);
  host.now.push(layer, labelled, snapshot);
}

async function seal(
  host: FreezeHost,
  { layer, record }: NonNullable<CowParts["top"]>,
  snapshot: Snapshot | undefined,
): Promise<void> {
  const samples = await sampleData(layer, record.identity.uuid, host.now.stack.sectors);
  try {
    await record.change((identity) => ({ ...identity, samples, frozen: true, snapshot }));
  } catch (error) {
    // The flag may have landed or not. Going on with the old top could write to a layer that is frozen: whatever the
    // device below still holds, this one has failed.
    const failure = unsure(host, error);
    host.fail(failure);
    throw failure;
  }
}

function unsure({ name }: FreezeHost, error: unknown): BlockIoError {
  const cause = toBlockIoError(error, { device: name, op: "message" });
  return new BlockIoError(`whether the layer is frozen is not known: ${cause.message}`, {
    code: "EIO",
    device: name,
    op: "message",
    cause,
    hint: "Open it again as it was; if it says that the top is frozen, with the new layer on top.",
  });
}

function checkDevices(host: FreezeHost, layer: LayerDevices): void {
  requireOwnPlaces({ ...host.now.stack, layers: [...host.now.stack.layers, layer] }, host.name);
  const devices = [layer.bitmap, layer.data];
  if (devices.some((device) => device.limits.capabilities.readOnly)) {
    throw refusal(
      host,
      "EROFS",
      "the new layer's devices cannot be written",
      "Give devices that can be written.",
    );
  }
  const block = host.limits.logicalBlockSize;
  if (layer.data.limits.logicalBlockSize > block || layer.offset % layer.data.limits.logicalBlockSize !== 0) {
    throw refusal(
      host,
      "EINVAL",
      "the new data device has larger blocks",
      `Give one with blocks of ${block} bytes.`,
    );
  }
}

const FORCE = { force: true, word: "force as the last word" } as const;

/** The identity of the layer if a freeze of this stack has begun with it already. Writes nothing. */
async function checkBlank(
  { force = false, ...layer }: NewLayer,
  host: FreezeHost,
): Promise<Identity | undefined> {
  const { bitmap } = layer;
  const found = await readIdentity(bitmap, host.now.stack.sectors);
  const begun = found.kind === "layer" ? found.identity : undefined;
  const isOurs = begun?.parent === host.now.top?.record.identity.uuid && begun?.frozen === false;
  const isNew = found.kind === "new" || (force && found.kind === "foreign");
  if (!isNew && !isOurs) {
    throw refusal(
      host,
      "EEXIST",
      `${bitmap.name} is in use already`,
      "Create the layer with: dmkit cow create --blank",
    );
  }
  // A former attempt may have been cut short: then its devices were blank before that.
  if (force && !isOurs) return undefined;
  if (!isOurs) await requireBlankLayer(layer, host.now.stack.sectors, { ...FORCE, force });
  await requireEmpty(bitmap, host.now.stack.sectors);
  const verdict = force ? undefined : await judgeData(layer, found, host.now.stack.sectors);
  if (verdict?.kind !== "wrong-data") return isOurs ? begun : undefined;
  throw refusal(host, "EEXIST", verdict.reason, "Give a data device that no layer has been written to.");
}

function refusal(
  { name }: FreezeHost,
  code: "EROFS" | "EINVAL" | "EEXIST",
  reason: string,
  hint: string,
): BlockIoError {
  return refuse(name, code, reason, hint, "message");
}
