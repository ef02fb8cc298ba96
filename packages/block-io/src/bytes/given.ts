/** Reading past places that a device does not give. */
import { type BlockDevice, SECTOR } from "../contract/device.ts";
import { isOfPlace } from "../contract/errors.ts";

/** What is being read, or undefined where the device does not give it. Throws what is no matter of the place. */
export async function given<T>(reading: Promise<T>): Promise<T | undefined> {
  try {
    return await reading;
  } catch (error) {
    if (isOfPlace(error)) return undefined;
    throw error;
  }
}

/** Whether the device gives what is being read. Throws what is no matter of the place. */
export async function isGiven(reading: Promise<void>): Promise<boolean> {
  return (await given(reading.then(() => true))) === true;
}

/** `length` bytes from `offset` on, or undefined where the device does not give them. Throws what is no matter of a place. */
export async function readGiven(
  device: BlockDevice,
  offset: number,
  length: number,
): Promise<Buffer | undefined> {
  const bytes = Buffer.alloc(length);
  return (await isGiven(device.read(offset, bytes))) ? bytes : undefined;
}

/**
 * Fills `into` from byte `offset` on, block by block if it is not given as a whole; returns the sectors that are not given,
 * counted from 0 at `offset`: zeroes are in their place. Throws what is no matter of a place.
 */
export async function readWhatIsGiven(
  device: BlockDevice,
  offset: number,
  into: Buffer,
): Promise<Set<number>> {
  const missing = new Set<number>();
  if (await isGiven(device.read(offset, into))) return missing;
  const block = device.limits.logicalBlockSize;
  for (let at = 0; at < into.length; at += block) {
    const piece = into.subarray(at, at + block);
    if (await isGiven(device.read(offset + at, piece))) continue;
    piece.fill(0);
    for (let within = at; within < at + block; within += SECTOR) missing.add(within / SECTOR);
  }
  return missing;
}

/** The same, where what is not given is given up for it: believed when it was seen twice. */
export async function readTwice(device: BlockDevice, offset: number, into: Buffer): Promise<Set<number>> {
  const missing = await readWhatIsGiven(device, offset, into);
  return missing.size === 0 ? missing : readWhatIsGiven(device, offset, into);
}
