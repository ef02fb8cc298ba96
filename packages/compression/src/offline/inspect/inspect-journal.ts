/** What is found in the journal of format 2: records that are not in place, or cannot be, and slots that cannot be read. */
import { LOST_SLOT } from "../../device/v2/journal/journal.ts";
import { writeSuperblock } from "../../device/v2/superblocks.ts";
import { BLOCK } from "../../format/geometry-v1.ts";
import { GROUP } from "../../format/layout-v2.ts";
import type { SuperblockV2 } from "../../format/superblock-v2.ts";
import { type ImageV2, ROLE } from "../image.ts";
import type { Finding } from "./findings.ts";

const KEPT =
  "It stays where it is, since it tells of blocks whose metadata cannot be read. Try again: a sector may come back. Or give up what is lost: --bad unreadable.";

/** Records that are not in place are what a crash leaves. */
export async function* inspectJournal(image: ImageV2): AsyncIterable<Finding> {
  for (const slot of image.unreadableSlots) yield unreadableSlot(image.superblock, slot);
  const { pending, implausible, sealed, superblock, view } = image;
  for (const number of implausible) {
    yield {
      problem: {
        kind: "journal-record",
        severity: "error",
        role: ROLE,
        location: `journal, record ${number}`,
        text: "its checksums are right, but what it says cannot be: it is ignored",
        advice: "Some program is at fault. What it wrote last is lost.",
      },
    };
  }
  const last = pending.at(-1);
  if (last === undefined) return;
  const numbers = pending.map(({ number }) => number).join(" and ");
  const problem = {
    kind: "journal",
    severity: "info",
    role: ROLE,
    location: `journal, record ${numbers}`,
    offset: superblock.layout.journalStart * BLOCK,
    length: superblock.layout.journalBlocks * BLOCK,
    text: "it may not be in place yet: the device was not closed",
  } as const;
  // Where another one may be missing, which came before it or after, nothing is given up.
  if (image.unreadableSlots.length > 0) return void (yield { problem });
  // It is written when the rest of these groups was given up, or the device gives it again.
  const tellsOfSealed = pending.some(({ changes }) =>
    changes.some(({ first }) => sealed.has(Math.floor(first / GROUP))),
  );
  if (tellsOfSealed) return void (yield { problem: { ...problem, advice: KEPT } });
  yield {
    problem: { ...problem, repair: "bring it into place" },
    fix: async (device) => {
      // The journal stays valid until all of this is stable.
      for (const { offset, bytes } of view.changes()) await device.write(offset, bytes);
      await device.flush();
      const generation = superblock.generation + 1;
      await writeSuperblock(device, { ...superblock, applied: last.number, closed: true, generation });
    },
  };
}

/** Opening does not know what such a slot held, and is refused. */
function unreadableSlot({ layout }: SuperblockV2, slot: number): Finding {
  const length = (layout.journalBlocks / 2) * BLOCK;
  const offset = layout.journalStart * BLOCK + slot * length;
  const text = "it cannot be read, and may hold what was written last: opening is refused";
  const place = { role: ROLE, location: `journal, slot ${slot}`, offset, length };
  return { problem: { kind: "journal", severity: "error", ...place, text, advice: LOST_SLOT } };
}
