/**
 * What a layer relies on of the one below it. A commit changes a layer; others that lie on it, and that nobody has open, would
 * show something else from then on. So a layer that is changed by a commit, or may be written again, gets a new name for its
 * contents, and each layer knows that of the one below.
 *
 * Invariant: the new name is stable before anything else in the layer changes. The layer that is committed has all that this
 * changes, so it shows the same before and after, at each moment: it need not know the new name.
 */
import { type Environment, randomUuid } from "@dmkit/block-io";
import type { Identity, IdentityBlock } from "../format/identity.ts";
import type { Uuid } from "../format/uuid.ts";

/** What a layer records of the one it is put on. */
export function relianceOn(below: IdentityBlock | undefined): Pick<Identity, "contentsBelow"> {
  return { contentsBelow: below?.kind === "layer" ? below.identity.contents : undefined };
}

/** Whether what lies below a layer is not what the layer was made on. */
export function isChangedBelow({ uuid, contentsBelow }: Identity, below: IdentityBlock | undefined): boolean {
  if (below?.kind !== "layer") return false;
  const { contents, changedBy } = below.identity;
  return contents !== contentsBelow && changedBy !== uuid;
}

/** A layer that is about to be changed; none of its samples can be relied on. @param by the layer that is committed into it. */
export function changing(
  identity: Identity,
  by: Uuid | undefined,
  { random }: Pick<Environment, "random">,
): Identity {
  return { ...identity, samples: undefined, contents: randomUuid(random), changedBy: by };
}
