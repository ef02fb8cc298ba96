/**
 * A device that others rely on is exchanged for one with the same bytes: a cache or a layer above it keeps what belongs to
 * these, and would mix it with what another disk has.
 *
 * What tells is the witness, as when a cache is opened over its disk again. It sees a foreign disk, and one that a file
 * system was mounted from, not a block in the middle that no superblock tells of.
 */
import { type BlockDevice, BlockIoError, claims, toBlockIoError, witnessOf } from "@dmkit/block-io";
import { problem } from "../device-directory.ts";
import type { ManagedDevice } from "../device/managed-device.ts";
import type { OpenedTable } from "../device/opened-table.ts";

/** For a table that is suspended, and so it is afterwards. Errors: those of reading. */
export async function rememberContents(managed: ManagedDevice, { device }: OpenedTable): Promise<void> {
  if (!claims.reliesOn(managed.device)) return;
  await device.resume();
  try {
    const { size } = device;
    managed.relied = { size, witness: await witness(device, size) };
  } finally {
    await device.suspend();
  }
}

async function witness(device: BlockDevice, size: number): Promise<string> {
  try {
    return await witnessOf(device, size);
  } catch (error) {
    const { code, reason, device: name, op, offset, length } = toBlockIoError(error, {});
    const hint =
      "Its bytes cannot be compared with those of the other table, and others rely on them. Who knows that they are the same gives --force to reload.";
    throw new BlockIoError(reason, { code, device: name, op, offset, length, cause: error, hint });
  }
}

/** Throws `EBUSY` for a table with other bytes than the one it takes the place of. Errors: those of reading. */
export async function refuseOtherContents(
  { name, owners, relied }: ManagedDevice,
  { device }: OpenedTable,
): Promise<void> {
  if (relied === undefined || (await witness(device, relied.size)) === relied.witness) return;
  const above = owners.map((owner) => owner.name).join(", ");
  throw problem(
    "EBUSY",
    name,
    `the new table shows other bytes than the old one, whose bytes device ${above} relies on`,
    "Load a table with the same bytes, a copy of the disk, say; or take away what stands on it first. Who knows better gives --force to reload.",
  );
}
