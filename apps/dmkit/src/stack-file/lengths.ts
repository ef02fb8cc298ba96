/** Lengths of devices that take theirs from what lies below; all in sectors. */
import {
  type LengthRule,
  SECTOR,
  type TargetRegistry,
  parseSize,
  parseTable,
  refuse,
  schemeOf,
  tableLength,
} from "@dmkit/block-io";
import type { PlannedDevice } from "./plan.ts";

/** What stands in a table for a length that is not known yet. */
export const OPEN_LENGTH = "*";

/** The table with a length in the place of `*`; unchanged if it has none. Throws `EINVAL` for a length of 0. */
export function tableOfLength(device: PlannedDevice, sectors: number): string {
  if (device.length === undefined) return device.table;
  if (Number.isSafeInteger(sectors) && sectors > 0) return device.table.replace(OPEN_LENGTH, String(sectors));
  const below = device.length.parts.map(({ of }) => of).join(", ");
  throw refuse(
    device.name,
    "EINVAL",
    `nothing is left of ${below} for a device`,
    "Give a larger device, a smaller offset, or say how large this one is: size: 10G",
  );
}

/** @param bytesOf the size of a path, URI or `dm:NAME`. */
export async function lengthOf(
  rule: LengthRule,
  bytesOf: (reference: string) => Promise<number>,
): Promise<number> {
  const rooms: number[] = [];
  for (const { of, offset } of rule.parts) rooms.push(roomOf(await bytesOf(of), offset, rule));
  return Math.min(...rooms) * rule.parts.length;
}

/** The same where all sizes are known already; undefined if one is not. */
export function knownLength(
  rule: LengthRule,
  bytesOf: (reference: string) => number | undefined,
): number | undefined {
  const rooms: number[] = [];
  for (const { of, offset } of rule.parts) {
    const bytes = sizeInName(of) ?? bytesOf(of);
    if (bytes === undefined) return undefined;
    rooms.push(roomOf(bytes, offset, rule));
  }
  return Math.min(...rooms) * rule.parts.length;
}

function roomOf(bytes: number, offset: number, { multiple, parts }: LengthRule): number {
  // All parts together are not longer than a device can be.
  const most = Math.floor(Number.MAX_SAFE_INTEGER / SECTOR / parts.length);
  const room = Math.min(Math.floor(bytes / SECTOR) - offset, most);
  return Math.max(0, Math.floor(room / multiple) * multiple);
}

/** `mem:64M` says itself how large it is. */
function sizeInName(reference: string): number | undefined {
  const scheme = schemeOf(reference);
  if (scheme !== "mem" && scheme !== "null") return undefined;
  const text = reference.slice(reference.indexOf(":") + 1);
  return text === "" ? undefined : parseSize(text);
}

/** Bytes of a planned device; undefined where its length is open. */
export function plannedSize({ table, length }: PlannedDevice, targets: TargetRegistry): number | undefined {
  return length === undefined ? tableLength(parseTable(table, targets)) * SECTOR : undefined;
}
