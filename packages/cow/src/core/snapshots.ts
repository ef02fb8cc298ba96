/**
 * Snapshots: layers with a name. A snapshot is what its layer and those below it show.
 *
 * Invariant: as long as it has its name, what it shows does not change. So it is neither committed nor committed
 * into; it is deleted by copying it up, into the layer above.
 */
import { type BlockIoError, didYouMean, refuse, shellQuote } from "@dmkit/block-io";
import type { IdentityBlock } from "../format/identity.ts";
import { type Snapshot, snapshotNameProblem } from "../format/snapshot.ts";

/** For each layer, bottom to top, the snapshot that it is. */
export type Snapshots = readonly (Snapshot | undefined)[];

/** What the layers of a stack say. */
export function snapshotsOf(blocks: readonly IdentityBlock[]): Snapshots {
  return blocks.map((block) => (block.kind === "layer" ? block.identity.snapshot : undefined));
}

/** Throws `EINVAL` for what is no name, `EEXIST` for one there is. @param device for the error. */
export function requireNewName(snapshots: Snapshots, name: string, device: string): void {
  const problem = snapshotNameProblem(name);
  if (problem !== undefined) {
    const hint = "A name is one word of up to 63 bytes without comma and @.";
    throw refuse(device, "EINVAL", `no snapshot can be called ${JSON.stringify(name)}: ${problem}`, hint);
  }
  if (!snapshots.some((one) => one?.name === name)) return;
  throw refuse(device, "EEXIST", `there is a snapshot ${shellQuote(name)} already`, "Take another name.");
}

/** The layer of a snapshot, from 1 at the bottom. Throws `ENOENT`, `EINVAL` where several layers are called so. */
export function layerOfSnapshot(snapshots: Snapshots, name: string, device: string): number {
  const first = snapshots.findIndex((one) => one?.name === name);
  if (first < 0) throw unknown(snapshots, name, device);
  if (snapshots.findLastIndex((one) => one?.name === name) === first) return first + 1;
  const hint = "Name the layers up to the one that is meant in a table of its own.";
  throw refuse(device, "EINVAL", `several layers are called ${shellQuote(name)}`, hint);
}

function unknown(snapshots: Snapshots, name: string, device: string): BlockIoError {
  const names = snapshots.flatMap((one) => one?.name ?? []);
  const hint =
    names.length > 0
      ? `${didYouMean(name, names)}There are: ${names.map(shellQuote).join(", ")}.`
      : "It has no snapshots.";
  return refuse(device, "ENOENT", `there is no snapshot ${shellQuote(name)}`, hint);
}

/** Throws `EBUSY` if one of these layers, from 1 at the bottom, is a snapshot: it, or what it shows, would be gone. */
export function requireNoSnapshot(snapshots: Snapshots, layers: readonly number[], device: string): void {
  for (const layer of layers) {
    const snapshot = snapshots[layer - 1];
    if (snapshot === undefined) continue;
    const name = shellQuote(snapshot.name);
    const hint = `It stays as it is until it is deleted: snapshot-delete ${name}`;
    throw refuse(device, "EBUSY", `layer ${layer} is the snapshot ${name}`, hint);
  }
}
