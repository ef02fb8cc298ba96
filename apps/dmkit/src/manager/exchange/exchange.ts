/**
 * Puts another table under a device that is in use. Order, and what a failure leaves after each step:
 *
 *      0  what is in a cache that goes is written back, clients go on     the old table goes on
 *      1  requests wait; those in flight are answered, all is flushed     the old table goes on
 *         what has come to such a cache since 0 is written back           the old table goes on
 *         what is there is remembered if others rely on it                the old table goes on
 *      2  the old table is closed: its files are free for the new one, and for nobody else until 4
 *      3  the new table is opened, fits, and has the same bytes if so      the old one is opened again
 *         a cache that has gone is made worthless                         (it is told what to do about it)
 *      4  requests go on                                                  (neither opens: requests wait)
 *
 * Invariant: whoever uses the device never gets other bytes because a file was replaced under its name meanwhile.
 */
import {
  BlockIoError,
  claims,
  codeOf,
  failureOf,
  keepBelow,
  replacedFile,
  whyNotAgain,
} from "@dmkit/block-io";
import type { ExchangeContext } from "./context.ts";
import { bringHome, homecomers, orForced } from "./homecoming.ts";
import { refuseOtherContents, rememberContents } from "./same-contents.ts";
import { forgetBack, remember, retire } from "./retire.ts";
import { tellAgain } from "./told-values.ts";
import type { ExchangedTables, InactiveTable, ManagedDevice } from "../device/managed-device.ts";
import { fitsInPlaceOf } from "../device/fits-in-place.ts";
import type { OpenedTable } from "../device/opened-table.ts";
import { Cancelled } from "../../control/protocol.ts";
import { fileKeysOf, madeBefore, replacedIn } from "../references.ts";

/**
 * Errors: those of the flush, of writing back and of opening, the text says what is in place now; `Cancelled`, and then
 * the next table stays loaded.
 */
export async function exchangeTable(
  managed: ManagedDevice,
  next: InactiveTable,
  context: ExchangeContext,
): Promise<void> {
  managed.inactive = undefined;
  requireSameFiles(managed, next);
  // From here on both are read there, each time: what they refer to may get another name.
  const segments = madeBefore(next.segments, [...context.lines(), ...managed.left]);
  const tables: ExchangedTables = { next: { ...next, segments }, before: [] };
  managed.exchanged = tables;
  let giveBack = (): void => {};
  const keep = (old: OpenedTable): void => {
    giveBack = keepBelow(managed.holder, managed.device, [old.device, ...old.lowers()]);
  };
  try {
    await prepareOld(managed, tables, context);
    managed.changing = true;
    await closeOld(managed, tables, context, keep);
    await openNew(managed, tables, context);
  } catch (error) {
    if (error instanceof Cancelled) managed.inactive ??= tables.next;
    throw error;
  } finally {
    giveBack();
    managed.changing = false;
    managed.exchanged = undefined;
  }
}

/**
 * What is loaded under the same name is meant to be the same: clients would get other bytes. And what both tables name must
 * open again: by the next one or, where that fails, by this one.
 */
function requireSameFiles(managed: ManagedDevice, { segments, force }: InactiveTable): void {
  const { opened } = managed.device;
  managed.files = opened?.files() ?? managed.files;
  const path = replacedIn(segments, managed.files);
  const problem =
    path !== undefined && !force
      ? replacedFile(path)
      : opened && whyNotAgain([opened.device, ...opened.lowers()], fileKeysOf(segments));
  if (problem === undefined) return;
  throw told(managed, problem, opened === undefined ? "requests wait" : "the old table stays in place");
}

/** The bulk of what has to be written back, while nobody has to wait for it. */
async function prepareOld(
  managed: ManagedDevice,
  { next }: ExchangedTables,
  context: ExchangeContext,
): Promise<void> {
  const { device } = managed;
  const targets = homecomers(managed, next, context.lines()).homecomers;
  // One that has failed is refused below.
  const hasFailed = device.opened !== undefined && failureOf(device.opened.device) !== undefined;
  if (targets.length === 0 || device.held || hasFailed) return;
  context.logger.log("info", "writing back what the new table would not find", { device: device.name });
  await bringHome(managed, targets, next, context).catch((error: unknown) => {
    throw notHome(managed, error);
  });
}

function notHome(managed: ManagedDevice, error: unknown): unknown {
  if (error instanceof Cancelled || codeOf(error) === "ESHUTDOWN") return error;
  const now = "so not all that clients wrote could be written back, and the old table stays in place";
  return told(managed, orForced(error), now);
}

/** @param keep called before what the old table has is free. */
async function closeOld(
  managed: ManagedDevice,
  tables: ExchangedTables,
  context: ExchangeContext,
  keep: (old: OpenedTable) => void,
): Promise<void> {
  const { logger } = context;
  const { device } = managed;
  device.hold();
  await managed.quiesce();
  // No message changes it any more.
  tables.before = context.lines();
  const { next, before } = tables;
  const old = device.opened;
  if (old === undefined) return;
  try {
    await suspendSafely(managed, old);
  } catch (error) {
    await device.resume();
    throw told(managed, error, "the old table could not be flushed and stays in place");
  }
  const { homecomers: targets, go, stay } = homecomers(managed, next, before);
  let isHome = true;
  if (targets.length > 0) {
    try {
      // What writes back rests while it is suspended. Requests still wait: they do above it.
      await old.device.resume();
      isHome = await bringHome(managed, targets, next, context);
      await suspendSafely(managed, old);
    } catch (error) {
      await device.resume();
      throw notHome(managed, error);
    }
  }
  if (!next.force) {
    try {
      await rememberContents(managed, old);
    } catch (error) {
      await device.resume();
      throw told(managed, error, "the old table stays in place");
    }
  }
  try {
    await device.secure();
  } catch (error) {
    if (!next.force) {
      await device.resume();
      throw told(managed, error, "the old table stays in place");
    }
    logger.log("warn", "what is in memory was not saved", {
      device: managed.name,
      message: (error as Error).message,
    });
  }
  managed.left = stay;
  remember(managed, before, isHome ? go : []);
  keep(old);
  device.takeOut();
  await old.close().catch((error: unknown) => {
    // All that was answered has been flushed above, or failed before and was told then.
    const { message } = error as Error;
    logger.log("warn", "closing a table failed", { device: managed.name, message });
  });
}

async function suspendSafely(managed: ManagedDevice, old: OpenedTable): Promise<void> {
  await old.device.suspend();
  // A failed device suspends without a flush: writes that were answered may be lost. A new table would answer the next
  // flush of whoever wrote them, as if they were safe.
  const failure = failureOf(old.device);
  if (failure !== undefined) throw lost(managed, failure);
}

function lost(managed: ManagedDevice, failure: BlockIoError): BlockIoError {
  return new BlockIoError(`the device has failed (${failure.reason})`, {
    code: failure.code,
    device: managed.name,
    cause: failure,
    hint: "Take its exports away (dmkit export rm --mode hard), remove it and create it again: its clients have to learn of it.",
  });
}

async function openNew(
  managed: ManagedDevice,
  tables: ExchangedTables,
  context: ExchangeContext,
): Promise<void> {
  const { device } = managed;
  const { force, readOnly } = tables.next;
  try {
    await putIn(managed, () => openFitting(managed, tables, context), !force);
    managed.readOnly = readOnly;
    managed.pins = device.opened?.pins ?? new Map();
    await tellAgain(managed, tables.next.segments, tables.before, context);
    await retire(managed, tables.next, context);
    for (const { device: above } of allAbove(managed))
      above.keeper?.replaced("a device below was given another table");
  } catch (error) {
    if (tables.before.length === 0)
      throw told(managed, error, "requests wait for a table that can be opened");
    try {
      await putIn(managed, () => context.open(tables.before, managed.readOnly, managed.files));
      forgetBack(managed, tables.before);
    } catch (again) {
      const why = `and the old one cannot be opened any more (${(again as Error).message}): requests wait`;
      throw told(managed, error, why, again instanceof BlockIoError ? again.hint : undefined);
    }
    throw told(managed, error, "the old table is in place again");
  } finally {
    device.letGo();
  }
}

/**
 * Opens a table and puts it in, unless the device was given up in the meantime: nobody would close it then; or a device
 * above would now stand on what somebody else writes to, or, where that is compared, on other bytes (`EBUSY`).
 */
async function putIn(
  managed: ManagedDevice,
  open: () => Promise<OpenedTable>,
  isCompared = false,
): Promise<void> {
  const { device } = managed;
  const gone = (): BlockIoError =>
    new BlockIoError("the device was removed", { code: "ESHUTDOWN", device: device.name, op: "resume" });
  if (device.closed) throw gone();
  const opened = await open();
  if (device.closed) {
    await opened.close().catch(() => {});
    throw gone();
  }
  device.putIn(opened);
  try {
    claims.verify();
    if (isCompared) await refuseOtherContents(managed, opened);
    managed.left = [];
    managed.relied = undefined;
  } catch (error) {
    await device
      .takeOut()
      ?.close()
      .catch(() => {});
    throw error;
  }
}

/** Devices that show what this one has. */
function allAbove(managed: ManagedDevice): ReadonlySet<ManagedDevice> {
  const found = new Set(managed.owners);
  for (const one of found) for (const owner of one.owners) found.add(owner);
  return found;
}

async function openFitting(
  managed: ManagedDevice,
  { next, before }: ExchangedTables,
  { open }: ExchangeContext,
): Promise<OpenedTable> {
  const { device } = managed;
  const opened = await open(next.segments, next.readOnly);
  const misfit = fitsInPlaceOf(device, opened.device, managed.used || before.length === 0);
  if (misfit === undefined) return opened;
  await opened.close().catch(() => {});
  throw misfit;
}

function told(managed: ManagedDevice, error: unknown, now: string, instead?: string): BlockIoError {
  const { reason, hint, op } =
    error instanceof BlockIoError ? error : { reason: String(error), hint: undefined, op: undefined };
  const where = error instanceof BlockIoError && error.device !== managed.name ? error.device : undefined;
  return new BlockIoError(`${where === undefined ? "" : `${where}: `}${reason}; ${now}`, {
    code: codeOf(error),
    device: managed.name,
    op,
    cause: error,
    hint: instead ?? hint,
  });
}
