/**
 * Freezing the top layer while the stack is in use. Order, and what a crash leaves after each step:
 *
 *      1  the new layer is checked                                   nothing has changed
 *      2  requests are held back, those under way finish, flush      the top has all that was answered
 *      3  identity of the new layer, stable                          both stacks open: the new layer is empty
 *      4  the flag `frozen` in the old top, stable                   only the stack with the new layer opens for
 *                                                                    writing, with the same contents
 *      5  the new layer is the top, requests go on
 */
import { BlockIoError, type Environment, type Limits } from "@dmkit/block-io";
import { type Identity, randomUuid } from "./format/identity.ts";
import {
  type LayerDevices,
  readIdentity,
  requireBlankLayer,
  requireEmpty,
  requireLayerRoom,
  writeIdentity,
} from "./layer.ts";

/** A layer to be put on top. */
export interface NewLayer extends LayerDevices {
  /** Its devices need not be blank. Default false. */
  readonly force?: boolean;
  /** What a table calls it; for the table's text only. */
  readonly names?: { readonly bitmap: string; readonly data: string };
  /** Closes its devices, where it could not be put on top. */
  readonly giveBack?: () => Promise<void>;
}

/** What freezing needs of the device. */
export interface FreezeHost {
  readonly name: string;
  readonly limits: Limits;
  readonly sectors: number;
  readonly random: Environment["random"];
  readonly top: { readonly layer: LayerDevices; readonly identity: Identity } | undefined;
  /** Lets requests under way finish, flushes, and holds new ones back. */
  hold(): Promise<void>;
  release(): Promise<void>;
  /** What is on disk is not known any more. */
  fail(error: unknown): BlockIoError;
  swap(layer: NewLayer, identity: Identity): void;
}

export async function freeze(host: FreezeHost, layer: NewLayer): Promise<void> {
  const { top } = host;
  if (top === undefined) {
    throw refusal(host, "EROFS", "the stack is read-only", "Open it for writing to put a layer on it.");
  }
  requireLayerRoom(layer, host.sectors);
  checkDevices(host, top.layer, layer);
  await checkBlank(layer, host);
  try {
    await host.hold();
    const identity = {
      uuid: randomUuid(() => host.random.next()),
      parent: top.identity.uuid,
      sectors: host.sectors,
      frozen: false,
    };
    await writeIdentity(layer.bitmap, identity);
    await seal(host, top);
    host.swap(layer, identity);
  } finally {
    await host.release();
  }
}

async function seal(host: FreezeHost, { layer, identity }: NonNullable<FreezeHost["top"]>): Promise<void> {
  try {
    await writeIdentity(layer.bitmap, { ...identity, frozen: true });
  } catch (error) {
    // The flag may have landed or not. Going on with the old top could write to a layer that is frozen.
    throw host.fail(error);
  }
}

function checkDevices(host: FreezeHost, old: LayerDevices, layer: LayerDevices): void {
  const devices = [layer.bitmap, layer.data];
  if (devices.includes(old.bitmap) || devices.includes(old.data) || layer.bitmap === layer.data) {
    throw refusal(host, "EINVAL", "the new layer uses a device of the stack", "Give two devices of its own.");
  }
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

async function checkBlank({ force = false, ...layer }: NewLayer, host: FreezeHost): Promise<void> {
  const { bitmap } = layer;
  const found = await readIdentity(bitmap, host.sectors);
  const isOurs =
    found.kind === "layer" && found.identity.parent === host.top?.identity.uuid && !found.identity.frozen;
  // A former attempt may have been cut short: then its devices were blank before that.
  if (isOurs) return requireEmpty(bitmap, host.sectors);
  if (found.kind !== "new" && !(force && found.kind === "foreign")) {
    throw refusal(
      host,
      "EEXIST",
      `${bitmap.name} is in use already`,
      "Create the layer with: dmkit cow create --blank",
    );
  }
  await requireBlankLayer(layer, host.sectors, { force, word: "force as the last word" });
  await requireEmpty(bitmap, host.sectors);
}

function refusal(
  { name }: FreezeHost,
  code: "EROFS" | "EINVAL" | "EEXIST",
  reason: string,
  hint: string,
): BlockIoError {
  return new BlockIoError(reason, { code, device: name, op: "message", hint });
}
