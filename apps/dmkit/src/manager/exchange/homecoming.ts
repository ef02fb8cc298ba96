/**
 * What a table that is exchanged must not leave behind.
 *
 * Invariant: what clients were answered is there under the new table, too, where they wrote it through a cache: a cache
 * is a shortcut to its disk, and not seen. What is in a cache that the new table does not have is written back before
 * the old table is closed. That is about targets that say so (`writeHome`); a layer, or another disk, shows something
 * else by intention, and whoever exchanges it means that.
 */
import { BlockIoError, type Segment, type TargetDevice, codeOf, printTable } from "@dmkit/block-io";
import type { ExchangeContext } from "./context.ts";
import { problem } from "../device-directory.ts";
import type { InactiveTable, ManagedDevice } from "../device/managed-device.ts";
import { Cancelled } from "../../control/protocol.ts";
import { hasLineOver } from "../references.ts";
import { unlessAborted } from "./unless-aborted.ts";

/**
 * Which targets of the table in place have to bring home what they have, in which lines, and which lines keep it for the
 * next table.
 * @param lines of the table in place; none if there is none.
 */
export function homecomers(
  { device }: ManagedDevice,
  next: Pick<InactiveTable, "segments" | "force">,
  lines: readonly Segment[],
): {
  readonly homecomers: readonly TargetDevice[];
  readonly go: readonly Segment[];
  readonly stay: readonly Segment[];
} {
  const homecoming: TargetDevice[] = [];
  const [go, stay]: [Segment[], Segment[]] = [[], []];
  for (const [index, target] of device.opened?.targets.entries() ?? []) {
    const line = lines[index];
    if (target === undefined || line === undefined) continue;
    const stays = hasLineOver(next.segments, line);
    if (!stays && line.target.retire !== undefined) go.push(line);
    if (target.writeHome === undefined) continue;
    if (stays) stay.push(line);
    else homecoming.push(target);
  }
  return { homecomers: homecoming, go, stay };
}

/**
 * Resolves with whether all is home. Errors: those of the targets; `Cancelled`; `ESHUTDOWN` where the signal says that the
 * server is ended. None where the loss was agreed to: it is logged.
 */
export async function bringHome(
  managed: ManagedDevice,
  targets: readonly TargetDevice[],
  next: Pick<InactiveTable, "segments" | "force">,
  { signal, progress, logger }: Pick<ExchangeContext, "logger" | "signal" | "progress">,
): Promise<boolean> {
  const device = managed.name;
  const aborted = (): Error =>
    codeOf(signal?.reason) === "ESHUTDOWN"
      ? problem(
          "ESHUTDOWN",
          device,
          "the server was ended before all was written back: the table was not exchanged, and what is left is still in the cache",
          "Start the server with the old table, cache included, and exchange it then; or write back offline: dmkit replay",
        )
      : new Cancelled("resume was cancelled: the old table goes on");
  try {
    for (const target of targets) {
      if (signal?.aborted) throw aborted();
      await unlessAborted(target.writeHome?.({ signal, progress }) ?? Promise.resolve(), signal, aborted);
    }
    return true;
  } catch (error) {
    if (signal?.aborted) throw aborted();
    if (!next.force) throw error;
    const { message } = error as Error;
    logger.log(
      "warn",
      "what is only in a cache was not written back: it is not in the new table, and the cache is not opened again without a word",
      {
        device,
        message,
      },
    );
    return false;
  }
}

/** The error with the other way out. */
export function orForced(error: unknown): unknown {
  if (!(error instanceof BlockIoError)) return error;
  const { code, device, op, reason, hint } = error;
  const forced = "Or load the table again with --force: what is only in the cache is missing then.";
  return new BlockIoError(reason, {
    code,
    device,
    op,
    cause: error,
    hint: hint === undefined ? forced : `${hint} ${forced}`,
  });
}

/** Throws `EBUSY` if tables that could not be opened again have left something the new one does not find. */
export function refuseToLeave({ name, left }: ManagedDevice, next: readonly Segment[]): void {
  const lost = left.filter((line) => !hasLineOver(next, line));
  if (lost.length === 0) return;
  throw problem(
    "EBUSY",
    name,
    `what was written may be in a cache that the new table does not have: ${printTable(lost)}`,
    "Load a table with that cache, or give --force to go on without what is only there.",
  );
}
