/**
 * Findings of the first MiB, and the log that it leads to. What keeps a log from being read is what opening says; a
 * header that has to be repaired first is looked past.
 */
import type { Finding, Fix, Image } from "./findings.ts";
import { type BlockDevice, BlockIoError } from "@dmkit/block-io";
import { IDENTITY_START, NO_UUID } from "../../format/identity.ts";
import { HEADER_START, RECORD, RECORD_START } from "../../format/superblock.ts";
import { findPlogIdentity, isRetired } from "../../device/log/plog-place.ts";
import { sentence } from "../../open/pairing.ts";
import { type ScannedLog, scan } from "../../open/scan.ts";
import type { ScanOptions } from "../../open/scan-options.ts";
import { type Superblock, UNKNOWN_OWNER, readSuperblock } from "../../open/superblock.ts";

const header = { role: "cache", location: "superblock header", offset: HEADER_START, length: 512 } as const;
const record = {
  role: "cache",
  location: "superblock record (sector 2047)",
  offset: RECORD_START + RECORD,
  length: 512,
} as const;
const identityRecord = {
  role: "cache",
  location: "identity record (sector 8)",
  offset: IDENTITY_START,
  length: 512,
} as const;

/** Undefined where there is no log to be found: a finding says why. Throws what devices throw. */
export async function readLog(
  image: Image,
  options: ScanOptions,
  findings: Finding[],
): Promise<ScannedLog | undefined> {
  const { cache, backing } = image;
  const superblock = await readSuperblock(cache);
  await reportIdentity(image.plog, superblock, findings);
  const read = (assumeOrder?: number): Promise<ScannedLog> =>
    scan(cache, backing?.size, { ...options, thorough: true, superblock, assumeOrder });
  const found = await orRefusal(read());
  if (!(found instanceof BlockIoError)) {
    reportUnreadable(found, findings);
    return found;
  }
  const order = orderToMend(superblock);
  const { kind: said } = superblock.header;
  const kind =
    order === undefined && (said === "writeboost" || said === "unreadable") ? "geometry" : "superblock";
  const refused: Finding = {
    problem: { ...header, kind, severity: "error", text: sentence(found), advice: found.hint },
  };
  const assumed = order === undefined ? found : await orRefusal(read(order));
  // An order that only the identity record knows must be borne out by segments: the record may be a leftover.
  if (
    order === undefined ||
    assumed instanceof BlockIoError ||
    assumed.damage !== undefined ||
    (superblock.header.kind === "writeboost" && assumed.last === 0)
  ) {
    findings.push(refused);
    return undefined;
  }
  const repair = `Sector 0 is written again with segment_size_order ${order}, as identity record and log have it.`;
  findings.push({
    problem: { ...refused.problem, advice: undefined, repair },
    fix: { step: "header", order },
  });
  return assumed;
}

/** What sector 0 should say, where the identity record knows it better: nothing but that can have been there. */
function orderToMend({ header: said, isBare, identity }: Superblock): number | undefined {
  if (typeof identity !== "object") return undefined;
  const isLeft = said.kind === "unreadable" && identity.left === true;
  const isLost = said.kind === "blank" || (said.kind === "foreign" && isBare) || isLeft;
  const isOther = said.kind === "writeboost" && said.order !== undefined && identity.dialect !== "v2";
  return isLost || (isOther && said.order !== identity.order) ? identity.order : undefined;
}

/** What a device throws is not ours to explain: ours are the refusals of scan(). */
async function orRefusal<T>(scanning: Promise<T>): Promise<T | BlockIoError> {
  try {
    return await scanning;
  } catch (error) {
    const isOurs = error instanceof BlockIoError && error.op === "open";
    if (isOurs && ["EFORMAT", "EINVAL", "EIO"].includes(error.code)) return error;
    throw error;
  }
}

/** A record that is damaged can be had again from its copy on the plog device. */
async function reportIdentity(
  plog: BlockDevice | undefined,
  { identity, uuid }: Superblock,
  findings: Finding[],
): Promise<void> {
  if (identity !== "foreign") return;
  const copy = plog === undefined ? undefined : await findPlogIdentity(plog);
  const same = copy !== undefined && copy.cache === uuid && copy.cache !== NO_UUID && !isRetired(copy);
  findings.push({
    problem: {
      ...identityRecord,
      kind: "identity",
      severity: "warning",
      text: "Sector 8 is neither zero nor an identity record whose checksum is right.",
      repair: same ? "It is written again from its copy on the plog device." : undefined,
      advice: same
        ? undefined
        : "The cache can be opened without one; if the device is a type 1 cache, give its plog device too.",
    },
    // The copy is as old as an earlier opening: what it says was durable then, still is.
    fix: same ? { step: "identity", identity: { ...copy, clean: false } } : undefined,
  });
}

/** Sectors of the first MiB that the device does not give, of a log that can be read without them. */
function reportUnreadable(found: ScannedLog, findings: Finding[]): void {
  const { superblock, geometry, damage, last, record: id } = found;
  const lost = { kind: "unreadable", severity: "warning", text: "The device does not give it." } as const;
  if (superblock.identity === "unreadable") {
    const [reason, advice] = UNKNOWN_OWNER;
    findings.push({
      problem: { ...identityRecord, ...lost, severity: "error", text: sentence({ reason }), advice },
    });
    return;
  }
  const sound = damage === undefined && typeof superblock.identity === "object";
  const add = (where: typeof header | typeof record, fix: Fix, text: string): void => {
    const repair = sound ? "It is written again as the identity record has it." : undefined;
    const advice = sound ? undefined : text;
    findings.push({ problem: { ...where, ...lost, repair, advice }, fix: sound ? fix : undefined });
  };
  if (superblock.header.kind === "unreadable")
    add(header, { step: "header", order: geometry.order }, "It is dealt with when nothing worse is wrong.");
  if (superblock.record === undefined)
    add(record, { step: "record", id: Math.min(id, last) }, "Nothing counts as written back without it.");
}
