/**
 * By what a layer knows its base again: nothing on a base says which layers lie on it, so a commit into it, or a mount, is found
 * by the witness of its contents only; see `witnessOf`.
 */
import { LinearDevice, SECTOR, witnessOf } from "@dmkit/block-io";
import { relianceOn } from "../../core/reliance.ts";
import { nameOf } from "../../core/stacking.ts";
import type { Identity, IdentityBlock } from "../../format/identity.ts";
import type { StackDevices } from "./stack-devices.ts";

/** Hexadecimal digits of a witness that an identity has room for. */
const DIGITS = 32;
/** Bytes. What moves more at once, as images in object stores do, would be read as a whole for some hundred small reads. */
const MOST_TRANSFER = 128 * 1024;

/** The witness of the part of the base that the target shows; undefined where it cannot be read, or costs too much. */
export async function baseWitness({
  base,
  baseOffset,
  sectors,
}: Pick<StackDevices, "base" | "baseOffset" | "sectors">): Promise<string | undefined> {
  if (base.limits.optimalTransfer > MOST_TRANSFER || base.size < baseOffset + sectors * SECTOR)
    return undefined;
  const part = new LinearDevice(base, baseOffset, sectors * SECTOR, base.name);
  return witnessOf(part).then(
    (witness) => witness.slice(0, DIGITS),
    (): undefined => undefined,
  );
}

/** What a layer records of what it lies on. Errors: none. @param below undefined: the base of `stack`. */
export async function lyingOn(
  stack: Pick<StackDevices, "base" | "baseOffset" | "sectors">,
  below: IdentityBlock | undefined,
): Promise<Pick<Identity, "parent" | "baseOffset" | "contentsBelow" | "baseWitness">> {
  const isBase = below === undefined;
  return {
    parent: nameOf(below),
    baseOffset: isBase ? stack.baseOffset / SECTOR : undefined,
    baseWitness: isBase ? await baseWitness(stack) : undefined,
    ...relianceOn(below),
  };
}
