/** Damage to caches of version 2. */
import { type BlockDevice, crc32c } from "@dmkit/block-io";
import type { SeededRandom } from "@dmkit/block-io/testing";

/** Changes an entry sector and gives it the right checksum again. */
export async function edit(cache: BlockDevice, change: (sector: Buffer) => void, index = 0): Promise<void> {
  const superblock = Buffer.alloc(512);
  await cache.read(0, superblock);
  const sector = Buffer.alloc(512);
  await cache.read((8 + index) * 512, sector);
  change(sector);
  const salt = Buffer.alloc(20);
  superblock.copy(salt, 0, 16, 32);
  salt.writeUInt32LE(index, 16);
  sector.writeUInt32LE(crc32c(sector.subarray(0, 508), crc32c(salt)), 508);
  await cache.write((8 + index) * 512, sector);
}

/** One sort of damage by chance: noise over a superblock or entries, an entry that is or is not possible. */
export async function damageOne(cache: BlockDevice, random: SeededRandom): Promise<void> {
  const index = random.below(3);
  const slot = random.below(63) * 8;
  switch (random.below(5)) {
    case 0:
      return cache.write(0, random.fill(Buffer.alloc(512)));
    case 1:
      return cache.write(cache.size - 512, random.fill(Buffer.alloc(512)));
    case 2:
      return cache.write((8 + index) * 512, random.fill(Buffer.alloc(512)));
    case 3:
      return edit(
        cache,
        (sector) => sector.writeBigUInt64LE(BigInt(random.below(2 ** 20)) * 4n + 1n, slot),
        index,
      );
    default:
      return edit(
        cache,
        (sector) => sector.writeBigUInt64LE(BigInt(5000 + random.below(2 ** 20)) * 4n + 2n, 62 * 8),
        0,
      );
  }
}
