/**
 * What V8 made of our modules, kept for the next start: one file a command. Those that begin with a module compile it anew
 * otherwise, a third of the time to the first answer of a server.
 *
 *     code of a module, filled up with zeroes to a multiple of 8 (V8 copies what is not aligned)
 *     ... the next ones
 *     JSON: the list of {name, of: CRC-32 of the source, at, length}
 *     8 digits: CRC-32 of all before it, hexadecimal
 *     8 digits: bytes of the JSON
 *
 * Invariants:
 *
 * - V8 believes what it is given: it compares its version, its flags and the length of the source, and nothing else. So what
 *   is torn or not of exactly this source is never given to it;
 * - it is code: it lies in the folder of the program, where whoever can change it can change the program. Only who owns that
 *   folder writes there, and nobody else may write to what was written;
 * - nothing of this is needed: whatever fails, the command runs.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { crc32 } from "node:zlib";

/** The code of one module. */
export interface Kept {
  /** CRC-32 of its source. */
  readonly of: number;
  readonly code: Buffer;
}

interface Entry {
  readonly name: string;
  readonly of: number;
  readonly at: number;
  readonly length: number;
}

const DIGITS = 8;
const ALIGNED = 8;

/** By the file name of the module. Empty if there is none, or none that is whole. */
export function readKept(path: string): Map<string, Kept> {
  const kept = new Map<string, Kept>();
  try {
    const all = readFileSync(path);
    const sum = all.length - 2 * DIGITS;
    const digits = (at: number): string => all.toString("latin1", at, at + DIGITS);
    if (sum < 0 || digits(sum) !== hex(crc32(all.subarray(0, sum)))) return kept;
    const entries = sum - Number(digits(sum + DIGITS));
    for (const { name, of, at, length } of JSON.parse(all.toString("latin1", entries, sum)) as Entry[])
      kept.set(name, { of, code: all.subarray(at, at + length) });
  } catch {
    kept.clear();
  }
  return kept;
}

/** Nothing happens unless this user owns the program's folder, `home`. Throws what the file system does. */
export function writeKept(home: string, path: string, kept: ReadonlyMap<string, Kept>): void {
  if (statSync(home).uid !== process.geteuid?.()) return;
  const parts: Buffer[] = [];
  const entries: Entry[] = [];
  let at = 0;
  for (const [name, { of, code }] of kept) {
    entries.push({ name, of, at, length: code.length });
    const filled = Buffer.alloc(Math.ceil(code.length / ALIGNED) * ALIGNED);
    code.copy(filled);
    parts.push(filled);
    at += filled.length;
  }
  const json = Buffer.from(JSON.stringify(entries));
  const body = Buffer.concat([...parts, json]);
  const end = `${hex(crc32(body))}${String(json.length).padStart(DIGITS, "0")}`;
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  // Several may be at it at the same time.
  const part = `${path}.${process.pid}.new`;
  try {
    writeFileSync(part, Buffer.concat([body, Buffer.from(end)]), { mode: 0o644 });
    renameSync(part, path);
  } catch (error) {
    rmSync(part, { force: true });
    throw error;
  }
}

function hex(sum: number): string {
  return sum.toString(16).padStart(DIGITS, "0");
}
