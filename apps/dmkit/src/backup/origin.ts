/**
 * What a backup may be gone on from: the ids of the names that had begun by the moment it is of. Changes since one of these are
 * all that the device has and the backup has not.
 *
 *      beside a file   FILE.dmkit-backup, JSON: { "dmkit": "backup", "version": 1, "size": bytes, "witness": SHA-256 of the
 *                      file as block-io's witness.ts takes it, "epochs": [ids] }
 *      with a tag      a note: "epochs" and the ids, with a space before each
 *
 * Invariants: a file is there before what is beside it says anything of it, and that is gone before the file is written to; a
 * file that is not what it was when the note was made is not taken for a backup.
 */
import { readFileSync, rmSync, statSync } from "node:fs";
import {
  type Environment,
  parsePath,
  refuse,
  schemeOf,
  shellQuote,
  toBlockIoError,
  witnessOf,
} from "@dmkit/block-io";
import { writeWholeFile } from "../destination.ts";
import { withReading } from "../devices.ts";

const HEAD = '{"dmkit":"backup"';
const WORD = "epochs";
/** Bytes: ids of 64 epochs and some. */
const MOST = 64 * 1024;

/** What a backup is to be gone on from, and by which name. */
export interface Since {
  /** As a person has given them. */
  readonly backup: string;
  readonly name: string;
  /** Of the name, by the server; undefined: it is an older one. */
  readonly id: string | undefined;
}

/**
 * Throws `EINVAL` for a backup that was made before the name began, or has been changed since. False where nothing shows when it
 * was made. @param epochs that had begun by then, where that is known.
 */
export function requireSince({ backup, name, id }: Since, epochs: readonly string[] | undefined): boolean {
  if (id === undefined || epochs === undefined) return false;
  if (epochs.includes(id)) return true;
  throw refuse(
    backup,
    "EINVAL",
    `was made before ${JSON.stringify(name)} began, or of another device: what has changed between would be missing`,
    `Give the backup that was made after that, or back up all of it, without --since. If ${JSON.stringify(name)} was merged with an older one, so that it is right: ${isFile(backup) ? `rm ${shellQuote(noteOf(backup))}` : "give the version by its digest"}.`,
  );
}

/** What is beside a file, if it is a backup as that says. Errors: `EINVAL` where it has been changed since, those of reading. */
export async function epochsBeside(
  reference: string,
  environment: Environment,
): Promise<readonly string[] | undefined> {
  const note = isFile(reference) ? readNote(noteOf(reference)) : undefined;
  if (note === undefined) return undefined;
  const isSame = await withReading(
    reference,
    environment,
    async (device) => device.size === note.size && (await witnessOf(device)) === note.witness,
  );
  if (isSame) return note.epochs;
  throw refuse(
    reference,
    "EINVAL",
    "has been changed since the backup was made: it is not what the device was",
    `Give another backup, or back up all of it, without --since. If it was put back as it was: rm ${shellQuote(noteOf(reference))}`,
  );
}

/** Before a file is written to. Errors: those of the folder. */
export function forgetBeside(reference: string): void {
  if (schemeOf(reference) === undefined && readNote(noteOf(reference)) !== undefined)
    rmSync(noteOf(reference), { force: true });
}

/** When a file is whole. Says what went wrong, if anything did: the backup is good all the same. */
export async function noteBeside(
  reference: string,
  epochs: readonly string[],
  environment: Environment,
): Promise<string | undefined> {
  if (!isFile(reference) || epochs.length === 0) return undefined;
  try {
    const [size, witness] = await withReading(reference, environment, async (device) => [
      device.size,
      await witnessOf(device),
    ]);
    const text = JSON.stringify({ dmkit: "backup", version: 1, size, witness, epochs });
    writeWholeFile(noteOf(reference), `${text}\n`, { replaces: (head) => HEAD.startsWith(head) });
    return undefined;
  } catch (error) {
    return toBlockIoError(error, { device: noteOf(reference), op: "write" }).message;
  }
}

/** As a tag has it. */
export function noteWith(epochs: readonly string[]): string | undefined {
  return epochs.length === 0 ? undefined : [WORD, ...epochs].join(" ");
}

/** The ids in what a tag has. */
export function epochsIn(note: string | undefined): readonly string[] | undefined {
  const [word, ...epochs] = note?.split(" ") ?? [];
  return word === WORD ? epochs : undefined;
}

function noteOf(reference: string): string {
  return `${parsePath(reference).path}.dmkit-backup`;
}

/** Of a disk nothing can be said beside it: another may have its name next time. */
function isFile(reference: string): boolean {
  if (schemeOf(reference) !== undefined) return false;
  const { path, partition } = parsePath(reference);
  return partition === undefined && statSync(path, { throwIfNoEntry: false })?.isFile() === true;
}

interface Note {
  readonly size: number;
  readonly witness: string;
  readonly epochs: readonly string[];
}

/** Undefined for what is no note of ours, and of a version that is not known. */
function readNote(path: string): Note | undefined {
  try {
    const found = statSync(path, { throwIfNoEntry: false });
    if (found?.isFile() !== true || found.size > MOST) return undefined;
    const note = JSON.parse(readFileSync(path, "utf8")) as Partial<
      Record<keyof Note | "dmkit" | "version", unknown>
    >;
    const { dmkit, version, size, witness, epochs } = note;
    if (dmkit !== "backup" || version !== 1 || typeof size !== "number" || typeof witness !== "string")
      return undefined;
    if (!Array.isArray(epochs) || !epochs.every((one): one is string => typeof one === "string"))
      return undefined;
    return { size, witness, epochs };
  } catch {
    return undefined;
  }
}
