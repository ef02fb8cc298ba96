/**
 * `--undo FILE` of one command: the file, and its devices with {@link UndoDevice} in front of them.
 *
 * Order, and why: the samples are taken and the header is stable before anybody gets a device to write to. At the
 * end the devices are flushed before the file says what they hold then.
 */
import { rm } from "node:fs/promises";
import { resolve } from "node:path";
import {
  type BlockDevice,
  type Environment,
  type ImageDevices,
  type Logger,
  schemeOf,
} from "@dmkit/block-io";
import { MAX_PAYLOAD, type UndoHeader, encodeChecksums, encodeHeader } from "../format/undo-file.ts";
import { UndoDevice } from "./device.ts";
import { UndoRecorder } from "./recorder.ts";
import { type Range, checksumOf, takeSample } from "./sample.ts";
import { type UndoStorage, createUndoFile } from "./storage.ts";

/** A device to be written. */
export interface UndoSubject {
  readonly role: string;
  /** A path or URI. */
  readonly reference: string;
  readonly device: BlockDevice;
}

// Of what was overwritten, how much is looked at to tell later whether it was changed.
const LOOK: number = MAX_PAYLOAD;
const CHECKSUMS_A_RECORD = 64 * 1024;

/** What is looked at of a range: its start. */
export function lookedAt({ offset, length }: Range): Range {
  return { offset, length: Math.min(LOOK, length) };
}

export class UndoSession {
  /** The devices to work on, in the order of the subjects. */
  readonly devices: readonly BlockDevice[];
  readonly #storage: UndoStorage;
  readonly #recorder: UndoRecorder;

  private constructor(
    subjects: readonly UndoSubject[],
    storage: UndoStorage,
    recorder: UndoRecorder,
    logger: Logger,
  ) {
    this.#storage = storage;
    this.#recorder = recorder;
    this.devices = subjects.map(({ device }, index) => new UndoDevice(device, index, recorder, logger));
  }

  /** Ranges saved so far. */
  get saved(): number {
    return this.#recorder.saved.length;
  }

  /** Writes the header. The devices below stay the caller's to close. Errors: those of storage and devices. */
  static async begin(
    storage: UndoStorage,
    command: string,
    subjects: readonly UndoSubject[],
    { clock, random, logger }: Environment,
  ): Promise<UndoSession> {
    const devices: UndoHeader["devices"][number][] = [];
    for (const { role, reference, device } of subjects) {
      const path = schemeOf(reference) === undefined ? resolve(reference) : reference;
      devices.push({ role, path, size: device.size, samples: await takeSample(device) });
    }
    const uuid = Buffer.from(Array.from({ length: 16 }, () => Math.floor(random.next() * 256)));
    const header = encodeHeader({ uuid, time: clock.wallTime(), command, devices });
    await storage.write(0, header);
    await storage.sync();
    return new UndoSession(subjects, storage, new UndoRecorder(storage, uuid, header.length, 0), logger);
  }

  /** Flushes the devices and notes what they hold now. The file is complete then. */
  async finish(): Promise<void> {
    for (const device of this.devices) await device.flush();
    const { saved } = this.#recorder;
    for (let first = 0; first < saved.length; first += CHECKSUMS_A_RECORD) {
      const ranges = saved.slice(first, first + CHECKSUMS_A_RECORD);
      const checksums: number[] = [];
      for (const range of ranges) {
        checksums.push(await checksumOf(this.devices[range.device] as BlockDevice, lookedAt(range), 2));
      }
      const payload = encodeChecksums(checksums);
      await this.#recorder.save([
        { kind: "after", device: 0, offset: first, length: ranges.length, payload },
      ]);
    }
  }

  close(): Promise<void> {
    return this.#storage.close();
  }
}

/**
 * Runs `work` on devices whose old contents go to the file at `path`; without a path on the devices themselves.
 * A file to which nothing was saved is removed again.
 */
export async function withUndo<T>(
  path: string | undefined,
  command: string,
  subjects: readonly UndoSubject[],
  environment: Environment,
  work: (devices: readonly BlockDevice[]) => Promise<T>,
): Promise<T> {
  if (path === undefined) return work(subjects.map(({ device }) => device));
  const storage = await createUndoFile(path);
  let session: UndoSession | undefined;
  try {
    session = await UndoSession.begin(storage, command, subjects, environment);
    const result = await work(session.devices);
    await session.finish();
    return result;
  } catch (error) {
    // What was saved stays good without the last word; the first error is the one to tell.
    await session?.finish().catch(() => {});
    throw error;
  } finally {
    await storage.close();
    if (session === undefined || session.saved === 0) await rm(path, { force: true });
  }
}

/** As {@link withUndo}, with the devices of an image by role; those of `roles` may be written. */
export async function withImageUndo<T>(
  path: string | undefined,
  command: string,
  { devices, references }: { devices: ImageDevices; references: Readonly<Record<string, string>> },
  roles: Iterable<string>,
  environment: Environment,
  work: (devices: ImageDevices) => Promise<T>,
): Promise<T> {
  const written = [...roles];
  const subjects = written.map((role) => ({
    role,
    reference: references[role] ?? role,
    device: devices[role] as BlockDevice,
  }));
  return withUndo(path, command, subjects, environment, (given) =>
    work({
      ...devices,
      ...Object.fromEntries(written.map((role, index) => [role, given[index] as BlockDevice])),
    }),
  );
}
