/** What a dump looks like, and whether something that was read from a file is one. */
import { Bitmap, type BlockDevice, SECTOR } from "@dmkit/block-io";
import { FrameTable, NONE } from "../core/frame-table.ts";
import { type Geometry, geometryProblem } from "../format/geometry.ts";
import { type Superblock, decodeSuperblock, encodeSuperblock, policies } from "../format/superblock.ts";
import { uuidFromText } from "../format/uuid.ts";
import { requiredSectorsV1 } from "../format/v1.ts";

/** One entry that is in use. */
export interface DumpedEntry {
  readonly frame: number;
  /** Number of the source's block: sector / block size. */
  readonly block: number;
  readonly state: "clean" | "dirty";
}

/** Of historical metadata. The checksum is not kept: it follows from the rest, all 32 bits of it. */
export interface DumpV1 {
  readonly version: 1;
  readonly geometry: Geometry;
  readonly policy: "write-through" | "write-back";
  readonly entries: readonly DumpedEntry[];
}

/** The metadata of version 2 as plain data. */
export interface DumpV2 {
  readonly version: 2;
  readonly superblock: Superblock;
  readonly entries: readonly DumpedEntry[];
}

type Fields = Readonly<Record<string, unknown>>;

/** The dump, or in words why it is none. Values are of the right type then, not necessarily true. */
export function parseDump(given: unknown): DumpV1 | DumpV2 | string {
  if (!isFields(given)) return "it is no dump";
  const { version, entries } = given;
  if (!Array.isArray(entries) || !entries.every(isEntry))
    return "its entries are not of the form {frame, block, state}";
  if (version === 1) {
    const { geometry, policy } = given;
    if (!isGeometry(geometry)) return "it has no geometry";
    if (policy !== "write-through" && policy !== "write-back") return "its policy is not known";
    return { version, geometry, policy, entries };
  }
  if (version !== 2) return "its version is not known";
  const { superblock } = given;
  return isSuperblock(superblock) ? { version, superblock, entries } : "its superblock is not complete";
}

/** Why a dump cannot be true for a device; undefined if it can. */
export function whyUntrue(dumped: DumpV1 | DumpV2, cache: BlockDevice): string | undefined {
  const geometry = dumped.version === 1 ? dumped.geometry : dumped.superblock.geometry;
  const sectors = cache.size / SECTOR;
  const problem =
    geometryProblem(geometry) ?? (dumped.version === 1 ? misfitV1(dumped, cache) : misfitV2(dumped, sectors));
  if (problem !== undefined) return problem;
  // Block 0 cannot be remembered there; and nothing is known of the source.
  const historical = dumped.version === 1;
  const blocks = historical ? 2 ** 44 : Math.ceil(dumped.superblock.sourceSectors / geometry.blockSectors);
  const clean = historical || dumped.superblock.clean;
  const seen = new Bitmap(geometry.frames);
  const table = new FrameTable(geometry);
  for (const { frame, block, state } of dumped.entries) {
    const fits =
      isCount(frame, geometry.frames) &&
      !seen.get(frame) &&
      isCount(block, blocks) &&
      table.sets.of(block) === Math.floor(frame / geometry.ways) &&
      !(historical && (block === 0 || state === "dirty"));
    // After a crash clean entries are out of date; the same block may be dirty in another frame.
    const counts = clean || state === "dirty";
    if (!fits || (counts && table.find(block) !== NONE))
      return `frame ${frame} cannot hold block ${block}, ${state}`;
    seen.set(frame);
    if (counts) table.bind(frame, block);
  }
  return undefined;
}

function misfitV1({ geometry }: DumpV1, { size, limits }: BlockDevice): string | undefined {
  if (limits.logicalBlockSize !== SECTOR) return "historical metadata needs a device of 512-byte blocks";
  return requiredSectorsV1(geometry) > size / SECTOR ? "the cache does not fit the device" : undefined;
}

function misfitV2({ superblock }: DumpV2, sectors: number): string | undefined {
  const checked = decodeSuperblock(encodeSuperblock(superblock));
  if (typeof checked === "string") return checked;
  return superblock.deviceSectors <= sectors
    ? undefined
    : `it is of a device of ${superblock.deviceSectors} sectors`;
}

function isSuperblock(value: unknown): value is Superblock {
  if (!isFields(value)) return false;
  const { fingerprint, witness, policy, uuid, sourceUuid } = value;
  const counts = ["generation", "sourceSectors", "entryStart", "dataStart", "deviceSectors", "dirty"];
  return (
    typeof value["clean"] === "boolean" &&
    typeof value["needsCheck"] === "boolean" &&
    [uuid, sourceUuid].every((text) => typeof text === "string" && uuidFromText(text) !== undefined) &&
    counts.every((name) => isCount(value[name], Number.MAX_SAFE_INTEGER)) &&
    policies.some((name) => name === policy) &&
    isGeometry(value["geometry"]) &&
    // JSON leaves out what is undefined.
    (fingerprint === undefined || isCount(fingerprint, 2 ** 32)) &&
    (value["left"] === undefined || value["left"] === true) &&
    (witness === undefined || (typeof witness === "string" && /^[0-9a-f]{64}$/.test(witness)))
  );
}

function isGeometry(value: unknown): value is Geometry {
  return isFields(value) && ["frames", "blockSectors", "ways"].every((name) => isCount(value[name], 2 ** 32));
}

function isEntry(value: unknown): value is DumpedEntry {
  if (!isFields(value)) return false;
  const { frame, block, state } = value;
  return typeof frame === "number" && typeof block === "number" && (state === "clean" || state === "dirty");
}

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A whole number below `end`. */
function isCount(value: unknown, end: number): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 && value < end;
}
