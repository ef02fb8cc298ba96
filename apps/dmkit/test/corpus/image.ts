/** Images before they are damaged, and what damage is: steps with a name, each a pure change of bytes. */
import { type BlockDevice, MemoryDevice } from "@dmkit/block-io";
import type { Oracle } from "./oracle.ts";

/** What the devices of an image hold, by role. */
export type Contents = Record<string, Buffer>;
export type Devices = Readonly<Record<string, BlockDevice>>;

/** An image that is in order, made by a workload. */
export interface Base {
  /** Which of them it is. */
  readonly name: string;
  /** Made at most once. */
  readonly make: () => Promise<Made>;
}

export interface Made {
  /** The role that comes first on the command line is first here. */
  readonly contents: Contents;
  readonly oracle: Oracle;
  /** Opens what is left of the image. */
  readonly open: (devices: Devices) => Promise<BlockDevice>;
}

export function base(name: string, make: () => Promise<Made>): Base {
  let made: Promise<Made> | undefined;
  return { name, make: () => (made ??= make()) };
}

/** A place on a device. */
export interface Place {
  readonly on: string;
  readonly at: number;
  readonly name: string;
}

/** One step of damage. */
export interface Damage {
  readonly text: string;
  readonly apply: (contents: Contents, made: Made) => void | Promise<void>;
}

export function place(on: string, at: number, name: string): Place {
  return { on, at, name };
}

export function plus({ on, at, name }: Place, bytes: number): Place {
  return { on, at: at + bytes, name: `${name} + ${bytes}` };
}

function bytesOf(contents: Contents, on: string): Buffer {
  const bytes = contents[on];
  if (bytes === undefined) throw new Error(`the image has no ${on}`);
  return bytes;
}

export function zero(where: Place, length: number): Damage {
  return {
    text: `${where.on}: ${length} bytes zeroed at ${where.name}`,
    apply: (contents) => void bytesOf(contents, where.on).fill(0, where.at, where.at + length),
  };
}

/** Other people's bytes. */
export function scribble(where: Place, length: number): Damage {
  return {
    text: `${where.on}: ${length} foreign bytes at ${where.name}`,
    apply: (contents) =>
      void bytesOf(contents, where.on).fill("scribble", where.at, where.at + length, "latin1"),
  };
}

export function flip(where: Place, bit = 4): Damage {
  return {
    text: `${where.on}: bit ${bit} flipped at ${where.name}`,
    apply(contents) {
      const bytes = bytesOf(contents, where.on);
      bytes.writeUInt8(bytes.readUInt8(where.at) ^ (1 << bit), where.at);
    },
  };
}

export function put(where: Place, bytes: Buffer, what: string): Damage {
  return {
    text: `${where.on}: ${what} at ${where.name}`,
    apply: (contents) => void bytes.copy(bytesOf(contents, where.on), where.at),
  };
}

/** Copies bytes of the image to another place of it. */
export function move(from: Place, to: Place, length: number): Damage {
  return {
    text: `${to.on}: ${to.name} holds what belongs to ${from.name}`,
    apply(contents) {
      const bytes = Buffer.from(bytesOf(contents, from.on).subarray(from.at, from.at + length));
      bytes.copy(bytesOf(contents, to.on), to.at);
    },
  };
}

/** Cuts a device, or makes it longer. @param by bytes more, or less. */
export function resize(on: string, by: number): Damage {
  return {
    text: by < 0 ? `${on}: the last ${-by} bytes are cut off` : `${on}: ${by} bytes of zeroes at the end`,
    apply(contents) {
      const bytes = bytesOf(contents, on);
      contents[on] =
        by < 0 ? Buffer.from(bytes.subarray(0, bytes.length + by)) : Buffer.concat([bytes, Buffer.alloc(by)]);
    },
  };
}

/** A device of another image in the place of the right one. */
export function exchange(on: string, other: Base): Damage {
  return {
    text: `${on}: that of ${other.name}`,
    async apply(contents) {
      contents[on] = Buffer.from(bytesOf((await other.make()).contents, on));
    },
  };
}

/** The part of a device that another image has there: an old copy, or one from before. */
export function transplant(where: Place, length: number, other: Base): Damage {
  return {
    text: `${where.on}: ${length} bytes of ${other.name} at ${where.name}`,
    async apply(contents) {
      const donor = bytesOf((await other.make()).contents, where.on);
      donor.copy(bytesOf(contents, where.on), where.at, where.at, where.at + length);
    },
  };
}

/** Nobody names this device. */
export function unnamed(on: string): Damage {
  return {
    text: `${on}: not named`,
    apply(contents) {
      delete contents[on];
    },
  };
}

export async function deviceOf(bytes: Buffer, name = "device"): Promise<MemoryDevice> {
  const device = new MemoryDevice(bytes.length, { name });
  if (bytes.length > 0) await device.write(0, bytes);
  return device;
}

export async function bytesFrom(device: BlockDevice): Promise<Buffer> {
  const bytes = Buffer.alloc(device.size);
  if (bytes.length > 0) await device.read(0, bytes);
  return bytes;
}
