/**
 * A disk in a store: its records and the objects of its log, read and verified.
 *
 * The log is walked from a checkpoint on: epoch after epoch, number after number. A walk goes on to the next epoch only
 * behind a fence: without one the epoch may still grow. Invariants:
 *
 * - what was removed lies before a checkpoint that was there before: a walk whose checkpoint is still the newest at its
 *   end has met nothing that was removed ({@link Rules.sawAll}); any other begins again;
 * - a number that is missing although later ones are there was removed, or is lost: nothing is put in its place.
 */
import {
  type BlockIoError,
  type SettingsTable,
  codeOf,
  inParallel,
  refuse,
  checkSettings,
  setting,
} from "@dmkit/block-io";
import { type BlobCodec, BlobCoder, blobCodecs } from "@dmkit/image";
import { type ObjectStore, getVerified } from "@dmkit/object-store";
import { type Rules, isFence, rules as ours } from "../core/rules.ts";
import {
  BEGINNING,
  DISKS,
  type Position,
  checkpointKey,
  checkpointPrefix,
  diskKey,
  epochKey,
  epochPrefix,
  isSame,
  logKey,
  logPrefix,
  numberOfKey,
  positionOfKey,
} from "../format/keys.ts";
import {
  LOG_HEAD,
  type LogHead,
  type LogSegment,
  MAX_CONTENTS,
  decodeContents,
  decodeLogHead,
  endOf,
} from "../format/log-object.ts";
import {
  type Checkpoint,
  type DiskRecord,
  type EpochRecord,
  type LogEnd,
  MAX_RECORD,
  NOBODY,
  type Token,
  decodeCheckpoint,
  decodeDisk,
  decodeEpoch,
} from "../format/records.ts";

// Records of epochs that are read beside each other.
const EPOCHS_AT_ONCE = 16;

/** An epoch and who writes in it. */
export interface Epoch extends EpochRecord {
  readonly number: number;
}

/** A log object, read. */
export interface LogObject extends LogHead {
  readonly contents: readonly LogSegment[];
}

/** A log object that a listing has shown. */
export interface LogPlace extends Position {
  /** Bytes. */
  readonly size: number;
}

/** What a walk has found behind its checkpoint. */
export interface Walk {
  readonly checkpoint: Checkpoint;
  /** Log objects, in order. */
  readonly objects: readonly LogPlace[];
  /** The last segment in them. */
  readonly end: LogEnd;
}

/** Puts a fence at a place of the log: false if something is there already. */
export type Sealing = (position: Position) => Promise<boolean>;

/** How an archive is written, and judged. */
export interface ArchiveSettings {
  readonly rules?: Rules;
  readonly codec?: BlobCodec;
}

const archiveSettings: SettingsTable<ArchiveSettings> = {
  rules: setting.object,
  codec: setting.choice(...blobCodecs),
};

/** A disk in a store. */
export class Archive {
  readonly store: ObjectStore;
  readonly disk: string;
  /** For messages. */
  readonly name: string;
  readonly rules: Rules;
  readonly coder: BlobCoder = new BlobCoder();
  readonly codec: BlobCodec;
  #record: DiskRecord | undefined;

  /** @param codec for what is written; lz4, since a disk writes faster than zstd compresses. */
  constructor(store: ObjectStore, disk: string, settings: ArchiveSettings = {}) {
    const { rules = ours, codec = "lz4" } = checkSettings(archiveSettings, settings);
    diskKey(disk);
    this.store = store;
    this.disk = disk;
    this.name = `${store.name}/${disk}`;
    this.rules = rules;
    this.codec = codec;
  }

  /** What the disk is; undefined where there is none of that name. */
  async find(): Promise<DiskRecord | undefined> {
    try {
      const key = diskKey(this.disk);
      this.#record ??= await getVerified(this.store, key, decodeDisk, { most: MAX_RECORD });
      return this.#record;
    } catch (error) {
      if (codeOf(error) === "ENOENT") return undefined;
      throw error;
    }
  }

  /** The same; `ENOENT` where there is none. */
  async record(): Promise<DiskRecord> {
    const found = await this.find();
    if (found !== undefined) return found;
    // Where there is no bucket either, a listing says so.
    await this.store.list(DISKS)[Symbol.asyncIterator]().next();
    throw refuse(
      this.store.name,
      "ENOENT",
      `there is no archive of a disk ${this.disk}`,
      "Correct the name; dmkit archive ls lists the disks in a store.",
    );
  }

  /** Who writes, as far as is known: the newest epoch. Undefined before the first. */
  async newestEpoch(): Promise<Epoch | undefined> {
    let newest = 0;
    const prefix = epochPrefix(this.disk);
    for await (const { key } of this.store.list(prefix)) newest = numberOfKey(prefix, key) ?? newest;
    return newest === 0 ? undefined : this.epoch(newest);
  }

  async epoch(number: number): Promise<Epoch> {
    const key = epochKey(this.disk, number);
    return { ...(await getVerified(this.store, key, decodeEpoch, { most: MAX_RECORD })), number };
  }

  /** Whether an epoch was ever begun for a cache; they are never removed. */
  async hasEpochOf(token: Token): Promise<boolean> {
    const newest = (await this.newestEpoch())?.number ?? 0;
    const numbers = Array.from({ length: newest }, (_, at) => newest - at);
    let found = false;
    await inParallel(numbers, EPOCHS_AT_ONCE, async (number) => {
      if (!found && (await this.epoch(number)).token === token) found = true;
    });
    return found;
  }

  /** All checkpoints by position, oldest first; the first is the disk at its beginning. */
  async checkpoints(): Promise<Position[]> {
    const prefix = checkpointPrefix(this.disk);
    const found = [BEGINNING];
    for await (const { key } of this.store.list(prefix)) {
      const position = positionOfKey(prefix, key, "-");
      if (position !== undefined) found.push(position);
    }
    return found;
  }

  async newestCheckpoint(): Promise<Position> {
    return (await this.checkpoints()).at(-1) as Position;
  }

  async checkpoint(position: Position): Promise<Checkpoint> {
    if (position.epoch === 0) {
      const { base, time } = await this.record();
      return { position: BEGINNING, id: 0, local: 0, token: NOBODY, digest: base, time };
    }
    const key = checkpointKey(this.disk, position);
    const found = await getVerified(this.store, key, decodeCheckpoint, { most: MAX_RECORD });
    if (isSame(found.position, position)) return found;
    throw this.#contradicts(key);
  }

  /**
   * The log from the newest checkpoint on.
   * @param until the last epoch that is looked at.
   * @param seal ends each of these epochs; without it the walk ends where an epoch may still grow.
   * Errors: `EIO` where objects are lost.
   */
  async walk(until: number, seal?: Sealing): Promise<Walk> {
    await this.record();
    for (;;) {
      const start = await this.newestCheckpoint();
      const { objects, isCut } = await this.walkBehind(start, until, seal);
      const newest = await this.newestCheckpoint();
      if (!this.rules.sawAll(start, newest)) continue;
      if (isCut) {
        const hint = "Restore the objects that are missing from a copy of the bucket.";
        throw refuse(this.name, "EIO", "objects of the log are missing", hint);
      }
      try {
        const checkpoint = await this.checkpoint(start);
        const last = objects.at(-1);
        return { checkpoint, objects, end: last === undefined ? checkpoint : endOf(await this.head(last)) };
      } catch (error) {
        // Collected by whoever has made a newer checkpoint meanwhile.
        if (codeOf(error) !== "ENOENT") throw error;
      }
    }
  }

  /** The log behind a checkpoint, not looking whether that is the newest; `isCut` where something is missing behind it. */
  async walkBehind(
    start: Position,
    until: number,
    seal?: Sealing,
  ): Promise<{ readonly objects: LogPlace[]; readonly isCut: boolean }> {
    const objects: LogPlace[] = [];
    for (let epoch = Math.max(1, start.epoch); epoch <= until; epoch += 1) {
      const first = epoch === start.epoch ? start.n + 1 : 0;
      const end = await this.#walkEpoch({ epoch, n: first }, objects, seal);
      if (end !== "fence") return { objects, isCut: end === "hole" };
    }
    return { objects, isCut: false };
  }

  /** Adds the objects from `first` on; what is behind them: a fence, nothing yet, or a hole with more behind it. */
  async #walkEpoch(
    { epoch, n: first }: Position,
    objects: LogPlace[],
    seal: Sealing | undefined,
  ): Promise<"fence" | "nothing" | "hole"> {
    const prefix = logPrefix(this.disk, epoch);
    for (let next = first; ; ) {
      const after = next === 0 ? "" : logKey(this.disk, { epoch, n: next - 1 });
      for await (const { key, size } of this.store.list(prefix, after)) {
        const n = numberOfKey(prefix, key);
        if (n === undefined) continue;
        if (n !== next) return "hole";
        if (isFence(size)) return "fence";
        objects.push({ epoch, n, size });
        next += 1;
      }
      if (seal === undefined) return "nothing";
      if (await seal({ epoch, n: next })) return "fence";
      // Something has arrived there meanwhile: data, or another one's fence.
    }
  }

  /** What stands before the contents of a log object. */
  async head(position: Position): Promise<LogHead> {
    const range = { offset: 0, length: LOG_HEAD };
    const key = logKey(this.disk, position);
    return this.#placed(await getVerified(this.store, key, decodeLogHead, { range }), position);
  }

  /** A log object with its contents. `EIO` for one that is damaged, `ENOENT` for one that was removed. */
  async object(position: Position): Promise<LogObject> {
    const key = logKey(this.disk, position);
    const { size } = await this.record();
    for (let attempt = 1; attempt <= 2; attempt += 1) {
      const body = await this.store.get(key, { most: LOG_HEAD + 16 + MAX_CONTENTS });
      const head = decodeLogHead(body);
      const plain = head && (await this.coder.decode(body.subarray(LOG_HEAD), head.digest));
      const contents = plain && decodeContents(plain, head?.segments ?? 0, size);
      if (head !== undefined && contents !== undefined) return { ...this.#placed(head, position), contents };
    }
    throw refuse(
      this.store.name,
      "EIO",
      `${key} is damaged: its checksum was wrong twice`,
      "Restore the object from a copy of the bucket; moments before it can be read.",
      "read",
    );
  }

  /** The store stays open: whoever opened it closes it. */
  close(): Promise<void> {
    return this.coder.close();
  }

  #placed(head: LogHead, position: Position): LogHead {
    if (isSame(head.position, position)) return head;
    throw this.#contradicts(logKey(this.disk, position));
  }

  #contradicts(key: string): BlockIoError {
    const hint = "Objects were renamed: copy them under the keys they had.";
    return refuse(this.store.name, "EFORMAT", `${key} is not what its key says`, hint, "read");
  }
}
