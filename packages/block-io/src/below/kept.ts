/**
 * What a device stands on while its table is exchanged: the old one is closed, with its locks and claims, before the next one
 * is opened.
 *
 * Invariant: in between, nobody else of this process is given what it had: neither table might be opened then, or one file
 * would be written to by two. Other processes are kept off by locks only, which are free for that long.
 */
import type { BlockDevice } from "../contract/device.ts";
import { refuse } from "../contract/errors.ts";
import { FileDevice } from "../devices/file.ts";
import type { Origin } from "../devices/origin.ts";
import { type Holder, PROGRAM, claims } from "./claims.ts";
import { PartitionDevice, partitionLocks } from "./partition.ts";

/** A lock that comes back to who had it. */
interface KeptLock {
  readonly origin: string;
  readonly writes: boolean;
  readonly holder: Holder;
}

/** Who has the locks of files of which only partitions are open. */
export const partitions: Holder = { name: PROGRAM };

const locks = new Set<KeptLock>();

/**
 * Keeps all that a holder uses for it, until what is returned is called.
 * @param device what others know as the holder's. @param lowers what is open below, with its locks.
 */
export function keepBelow(holder: Holder, device: BlockDevice, lowers: readonly BlockDevice[]): () => void {
  const giveBack = [claims, partitionLocks].map((list) => list.keep(holder, device));
  const kept = lowers.flatMap((lower) => lockOf(lower, holder) ?? []);
  for (const one of kept) locks.add(one);
  return () => {
    for (const one of giveBack) one();
    for (const one of kept) locks.delete(one);
  };
}

/** Throws `EBUSY` where a lock is kept for somebody else than this holder. */
export function refuseKeptLock(
  name: string,
  origin: Origin,
  writes: boolean,
  holder: Holder | undefined,
): void {
  const isKept = [...locks].some(
    (one) => one.origin === origin.name && one.holder !== holder && (one.writes || writes),
  );
  if (!isKept) return;
  throw refuse(
    name,
    "EBUSY",
    "is in use by a device whose table is being exchanged",
    "Try again in a moment.",
  );
}

function lockOf(device: BlockDevice, holder: Holder): KeptLock | undefined {
  const [file, owner] =
    device instanceof PartitionDevice ? ([device.whole, partitions] as const) : ([device, holder] as const);
  if (!(file instanceof FileDevice) || !file.locks) return undefined;
  return { origin: file.origin.name, writes: !file.limits.capabilities.readOnly, holder: owner };
}
