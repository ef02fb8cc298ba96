/**
 * Bitmaps of what has changed, and the places on them that can be damaged. The device has 1003 sectors in 126 chunks of 4096
 * bytes; there is room for two epochs, and both are there.
 *
 *      bitmap   0, 65536   superblock, 8192 bytes: magic, version u32 (at 8), generation u64 (32), … crc (8188)
 *               131072     the page of epoch "a": crc, page u32, epoch u64, UUID, bits (at 32)
 *               135168     the page of epoch "b"
 */
import { manualEnvironment } from "@dmkit/block-io/testing";
import { openTracked } from "@dmkit/tracked";
import { crc, u32 } from "./bytes.ts";
import { type Base, type Damage, type Place, base, bytesFrom, deviceOf, place } from "./image.ts";
import { Oracle, SECTOR } from "./oracle.ts";

const SECTORS = 1003;
const COPIES = [0, 65_536] as const;
const PAGES = 131_072;
const BITMAP = PAGES + 2 * 4096;
const size = SECTORS * SECTOR;

export const copies: readonly [Place, Place] = [
  place("bitmap", COPIES[0], "the superblock"),
  place("bitmap", COPIES[1], "its second copy"),
];
export const pageOfA: Place = place("bitmap", PAGES, "the page of a");
export const pageOfB: Place = place("bitmap", PAGES + 4096, "the page of b");
export const data: Place = place("device", 0, "the device");

/** Changes a field of copies of the superblock; their checksums are made right. */
export function field(which: readonly (0 | 1)[], at: number, value: Buffer, what: string): Damage {
  return {
    text: `bitmap: ${which.length === 2 ? "both copies" : `copy ${(which[0] ?? 0) + 1}`} of the superblock ${what}, with the right checksum`,
    apply({ bitmap }) {
      for (const copy of which) {
        const bytes = (bitmap as Buffer).subarray(COPIES[copy], COPIES[copy] + 8192);
        value.copy(bytes, at);
        u32(crc(bytes.subarray(0, 8188))).copy(bytes, 8188);
      }
    },
  };
}

function made(name: string, isClosed: boolean): Base {
  return base(name, async () => {
    const oracle = new Oracle(SECTORS);
    const device = await deviceOf(oracle.write(0, SECTORS), "device");
    const bitmap = await deviceOf(Buffer.alloc(BITMAP), "bitmap");
    oracle.flush();
    const options = { environment: manualEnvironment(1), size };
    const open = await openTracked(device, bitmap, { ...options, granularity: 4096, epochs: 2, ahead: 0 });
    for (const epoch of ["a", "b"]) {
      await open.begin(epoch);
      for (let write = 0; write < 12; write += 1) {
        const sector = (write * 83 + epoch.length * 31) % (SECTORS - 9);
        await open.write(sector * SECTOR, oracle.write(sector, 1 + (write % 9)));
      }
    }
    await open.flush();
    oracle.flush();
    if (isClosed) await open.close();
    const contents = { bitmap: await bytesFrom(bitmap), device: await bytesFrom(device) };
    return {
      contents,
      oracle,
      async open({ bitmap: bits, device: disk }) {
        if (bits === undefined || disk === undefined) throw new Error("a device is missing");
        return openTracked(disk, bits, options);
      },
    };
  });
}

export const closed: Base = made("bitmaps of a device", true);
export const crashed: Base = made("bitmaps of a device after a crash", false);
