/**
 * By what a layer knows its base again: nothing on a base says which layers lie on it, so a commit into it, or a mount, is found
 * by the witness of its contents only; see `witnessOf`.
 */
import { createHash } from "node:crypto";
import { LinearDevice, SECTOR, witnessOf } from "@dmkit/block-io";
import { relianceOn } from "../../core/reliance.ts";
import { nameOf } from "../../core/stacking.ts";
import type { Identity, IdentityBlock } from "../../format/identity.ts";
import type { StackDevices } from "./stack-devices.ts";

/** Hexadecimal digits of a witness that an identity has room for. */
const DIGITS = 32;

/** What witnesses begin with that are made of a name. */
const OF_A_NAME = "00000000";

/**
 * The witness of the part of the base that the target shows; undefined where it cannot be read. Of a base that is pinned, an
 * image or an archive as of a moment, it is made of what pins it: that is cheap, and as good.
 */
export async function baseWitness({
  base,
  baseOffset,
  sectors,
}: Pick<StackDevices, "base" | "baseOffset" | "sectors">): Promise<string | undefined> {
  const [, pin] = /([^/@]+@[0-9a-f]+)(?:\?.*)?$/.exec(base.pinned ?? "") ?? [];
  if (pin !== undefined) {
    const sum = createHash("sha256").update(pin).digest("hex");
    return `${OF_A_NAME}${sum}`.slice(0, DIGITS);
  }
  if (base.size < baseOffset + sectors * SECTOR) return undefined;
  const part = new LinearDevice(base, baseOffset, sectors * SECTOR, base.name);
  return witnessOf(part).then(
    (witness) => witness.slice(0, DIGITS),
    (): undefined => undefined,
  );
}

/** Whether two witnesses are those of different bases. Of a name and of contents, as of an image and a copy of it, nothing is known. */
export function contradict(one: string, other: string): boolean {
  return one !== other && one.startsWith(OF_A_NAME) === other.startsWith(OF_A_NAME);
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
