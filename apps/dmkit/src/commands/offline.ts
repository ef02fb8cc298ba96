/** The commands for images that nobody serves; `info` is one of them, too, and stands by itself. */
import { fsckCodes } from "../offline/work.ts";
import { exitCodes } from "../ui/terminal.ts";
import { addDump } from "./dump.ts";
import { addFormat } from "./format.ts";
import { addFsck } from "./fsck.ts";
import { addMap } from "./map.ts";
import { addRecompress } from "./recompress.ts";
import { addReplay } from "./replay.ts";
import { addRestore } from "./restore.ts";
import { addUndo } from "./undo.ts";

export const offlineCommands: readonly (typeof addFsck)[] = [
  addFormat,
  addFsck,
  addReplay,
  addDump,
  addRestore,
  addMap,
  addUndo,
  addRecompress,
];

/** What wrong usage ends with: the checker has the exit codes of fsck. */
export function usageCode(command: string | undefined): number {
  return command === "fsck" ? fsckCodes.usage : exitCodes.usage;
}
