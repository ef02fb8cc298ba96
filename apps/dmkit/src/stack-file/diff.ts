/**
 * What has to be done to come from one plan to another while clients go on: steps in an order in which each can be
 * carried out, and what a restart takes, with the reason.
 *
 * - A device keeps its clients as long as its name stays, whatever becomes of its table; one that only has another
 *   name is renamed.
 * - What holds a file is let go, as far as possible, before something else opens it: removals that nobody stands in
 *   the way of come first, and tables are exchanged before devices are made.
 * - When all steps are carried out in order, no device is ever removed that another one stands on, and no table ever
 *   names a device that is not there.
 */
import { strict as assert } from "node:assert";
import { isDeepStrictEqual } from "node:util";
import type { TargetRegistry } from "@dmkit/block-io";
import { NBD_PORT } from "@dmkit/nbd";
import { accessOf } from "./access.ts";
import { readOpenTable } from "../manager/lengths.ts";
import { memoryOf, renameReferences } from "../manager/references.ts";
import { targets as allTargets } from "../targets.ts";
import { orderDevices, standsOn, usersOf } from "./order.ts";
import {
  type PlannedDevice,
  type PlannedExport,
  type PlannedFile,
  type PlannedListener,
  type StackPlan,
  plannedSize,
} from "./plan.ts";

export type PlanStep =
  /** `moves`: it is offered again, and shows another device then. That is for clients to know: there must be none. */
  | { readonly do: "unexport"; readonly name: string; readonly moves: boolean }
  | { readonly do: "unlisten"; readonly listener: PlannedListener }
  | { readonly do: "make-file"; readonly file: PlannedFile }
  | { readonly do: "remove"; readonly name: string }
  /** Tables of devices above follow by themselves. */
  | { readonly do: "rename"; readonly from: string; readonly to: string }
  | { readonly do: "create"; readonly device: PlannedDevice }
  /** The device goes on under another table. */
  | { readonly do: "reload"; readonly device: PlannedDevice }
  | { readonly do: "export"; readonly export: PlannedExport }
  | { readonly do: "listen"; readonly listener: PlannedListener };

/** Something that stays as it is until the server is started again. */
export interface RestartReason {
  /** `device disk`, `control`. */
  readonly what: string;
  readonly why: string;
  /** The device that stays as it is, by the name it has when all steps are done. */
  readonly device?: string | undefined;
}

export interface PlanDiff {
  readonly steps: readonly PlanStep[];
  readonly restart: readonly RestartReason[];
}

export function diffPlans(old: StackPlan, now: StackPlan, targets: TargetRegistry = allTargets): PlanDiff {
  const renames = findRenames(old.devices, now.devices);
  // From here on everything of the old plan has the names of the new one.
  const before = renamedPlan(old, renames);
  const changes = compareDevices(before, now, targets);
  const { unexport, add } = compareExports(before, now);
  const listen = (from: StackPlan, other: StackPlan): PlannedListener[] =>
    placesOf(from).filter((one) => !placesOf(other).some((listener) => isDeepStrictEqual(one, listener)));
  const steps: PlanStep[] = [
    ...unexport.map(({ name, moves }) => ({ do: "unexport", name, moves }) as const),
    ...listen(old, now).map((listener) => ({ do: "unlisten", listener }) as const),
    ...newFiles(old, now).map((file) => ({ do: "make-file", file }) as const),
    ...changes.removeFirst.map((name) => ({ do: "remove", name }) as const),
    ...[...renames].map(([from, to]) => ({ do: "rename", from, to }) as const),
    ...changes.put,
    ...changes.removeLast.map((name) => ({ do: "remove", name }) as const),
    ...add.map((one) => ({ do: "export", export: one }) as const),
    ...listen(now, old).map((listener) => ({ do: "listen", listener }) as const),
  ];
  return {
    steps,
    restart: [...changes.restart, ...settings(old, now), ...defaultExport(old, now, unexport)],
  };
}

/** Old names to new ones, of devices that differ in nothing else. One that could be two others is none of them. */
function findRenames(
  old: readonly PlannedDevice[],
  now: readonly PlannedDevice[],
): ReadonlyMap<string, string> {
  const renames = new Map<string, string>();
  const oldNames = new Set(old.map(({ name }) => name));
  const newNames = new Set(now.map(({ name }) => name));
  const gone = old.filter(({ name }) => !newNames.has(name));
  const come = new Map<string, PlannedDevice[]>();
  for (const device of now) {
    if (oldNames.has(device.name)) continue;
    const key = keyOf(device);
    come.set(key, [...(come.get(key) ?? []), device]);
  }
  const rivals = new Map<string, number>();
  // What a device stands on comes before it, so its name is settled when the device is compared.
  for (const device of gone) {
    const key = keyOf(renamed(device, renames));
    const [only, second] = come.get(key) ?? [];
    const count = (rivals.get(key) ?? 0) + 1;
    rivals.set(key, count);
    if (only === undefined || second !== undefined) continue;
    if (count === 1) renames.set(device.name, only.name);
    else for (const [from, to] of renames) if (to === only.name) renames.delete(from);
  }
  return renames;
}

/** Equal for devices that are the same but for their names. */
function keyOf({ table, readOnly, length }: PlannedDevice): string {
  return JSON.stringify([table, readOnly, length]);
}

function renamed(device: PlannedDevice, renames: ReadonlyMap<string, string>): PlannedDevice {
  const to = (name: string): string => renames.get(name) ?? name;
  const reference = (text: string): string => renameReferences(` ${text}`, to).slice(1);
  const { length } = device;
  return {
    ...device,
    name: to(device.name),
    table: renameReferences(device.table, to),
    ...(length === undefined
      ? {}
      : { length: { ...length, parts: length.parts.map((part) => ({ ...part, of: reference(part.of) })) } }),
  };
}

/** The plan with other names for its devices. */
export function renamedPlan(plan: StackPlan, renames: ReadonlyMap<string, string>): StackPlan {
  return {
    ...plan,
    devices: plan.devices.map((device) => renamed(device, renames)),
    exports: plan.exports.map((one) => ({ ...one, device: renames.get(one.device) ?? one.device })),
  };
}

/** Where a server of this plan listens, unless its command line says otherwise. */
export function placesOf({ listen }: Pick<StackPlan, "listen">): readonly PlannedListener[] {
  return listen.length > 0 ? listen : [{ host: "127.0.0.1", port: NBD_PORT, allowRemote: false }];
}

/** Whether two devices are the same but for their names. */
function sameDevice(a: PlannedDevice, b: PlannedDevice): boolean {
  return a.table === b.table && a.readOnly === b.readOnly && isDeepStrictEqual(a.length, b.length);
}

interface DeviceChanges {
  readonly removeFirst: readonly string[];
  readonly put: readonly PlanStep[];
  readonly removeLast: readonly string[];
  readonly restart: readonly RestartReason[];
}

function compareDevices(
  { devices: before, exports }: StackPlan,
  { devices: now }: StackPlan,
  targets: TargetRegistry,
): DeviceChanges {
  const exported = new Set(exports.map(({ device }) => device));
  const old = new Map(before.map((device) => [device.name, device]));
  const wanted = new Set(now.map(({ name }) => name));
  const users = usersOf(before, targets);
  const outcome = new Outcome(before, now, targets);
  for (const device of now) {
    const present = old.get(device.name);
    if (present === undefined || sameDevice(present, device)) continue;
    const used = exported.has(device.name) || (users.get(device.name)?.size ?? 0) > 0;
    const why = obstacle(present, device, used, targets);
    if (why !== undefined) outcome.stay(device.name, why);
  }
  const devices = outcome.settle();
  const put = devices.flatMap((device): PlanStep[] => {
    const present = old.get(device.name);
    if (present === undefined) return [{ do: "create", device }];
    return sameDevice(present, device) ? [] : [{ do: "reload", device }];
  });
  const remove = before
    .map(({ name }) => name)
    .filter((name) => !wanted.has(name) && !outcome.reasons.has(name))
    .toReversed();
  const first = new Set(withoutOthers(remove, users));
  return {
    removeFirst: [...first],
    put,
    removeLast: remove.filter((name) => !first.has(name)),
    restart: [...outcome.reasons.values()],
  };
}

/** What there is when all steps are done: the new devices, but for those that stay as they are. */
class Outcome {
  readonly reasons: Map<string, RestartReason> = new Map();
  readonly #before: readonly PlannedDevice[];
  readonly #old: ReadonlyMap<string, PlannedDevice>;
  readonly #now: ReadonlyMap<string, PlannedDevice>;
  readonly #targets: TargetRegistry;

  constructor(before: readonly PlannedDevice[], now: readonly PlannedDevice[], targets: TargetRegistry) {
    this.#targets = targets;
    this.#before = before;
    this.#old = new Map(before.map((device) => [device.name, device]));
    this.#now = new Map(now.map((device) => [device.name, device]));
  }

  stay(name: string, why: string): void {
    this.reasons.set(name, { what: `device ${name}`, why, device: name });
  }

  /** All devices, what they stand on before them, and tables that are exchanged as early as that allows. */
  settle(): readonly PlannedDevice[] {
    for (;;) {
      this.#keepBelow();
      const { devices, cycles } = orderDevices(this.#devices(), this.#targets);
      const [chain] = cycles;
      if (chain === undefined) return devices;
      // Neither the old devices nor the new ones stand on themselves, so there is a new one among them to give up.
      const changed = chain.find(
        (name) => this.#old.has(name) && this.#now.has(name) && !this.reasons.has(name),
      );
      assert(changed !== undefined);
      this.stay(changed, "with what stays as it is, it would stand on itself");
    }
  }

  /** What stays as it is keeps what it stands on. */
  #keepBelow(): void {
    for (const device of this.#before.toReversed()) {
      if (!this.reasons.has(device.name)) continue;
      for (const below of standsOn(device, this.#targets)) {
        if (this.#now.has(below) || this.reasons.has(below)) continue;
        this.stay(below, `${device.name}, which stays as it is, stands on it`);
      }
    }
  }

  #devices(): readonly PlannedDevice[] {
    const stays = this.#before.filter(({ name }) => this.reasons.has(name));
    const others = [...this.#now.values()].filter(({ name }) => !this.reasons.has(name));
    return [
      ...others.filter(({ name }) => this.#old.has(name)),
      ...others.filter(({ name }) => !this.#old.has(name)),
      ...stays,
    ];
  }
}

/** Those of `names`, which come before what they stand on, that nobody but others of them stands on. */
function withoutOthers(names: readonly string[], users: ReadonlyMap<string, ReadonlySet<string>>): string[] {
  const free: string[] = [];
  for (const name of names) {
    if ([...(users.get(name) ?? [])].every((user) => free.includes(user))) free.push(name);
  }
  return free;
}

/** Why a device cannot go on under another table, or undefined. */
function obstacle(
  present: PlannedDevice,
  wanted: PlannedDevice,
  used: boolean,
  targets: TargetRegistry,
): string | undefined {
  const segments = readOpenTable(present.table, targets);
  const { name, beginsAnew } = segments.find(({ target }) => target.beginsAnew)?.target ?? {};
  if (beginsAnew !== undefined) return `its table has ${name}, whose ${beginsAnew} would begin anew`;
  const memory = memoryOf(segments);
  if (memory !== undefined)
    return `its table keeps data in memory (${memory}), which a new one would not have`;
  if (!used) return undefined;
  const [size, next] = [plannedSize(present, targets), plannedSize(wanted, targets)];
  if (size !== undefined && next !== undefined && next < size) {
    return `it would shrink from ${size} to ${next} bytes under those who use it`;
  }
  return wanted.readOnly && !present.readOnly
    ? "it would become read-only under those who may write"
    : undefined;
}

function compareExports(
  old: StackPlan,
  now: StackPlan,
): { unexport: readonly { name: string; moves: boolean }[]; add: readonly PlannedExport[] } {
  const same = (a: PlannedExport, b: PlannedExport): boolean =>
    a.name === b.name &&
    a.device === b.device &&
    a.description === b.description &&
    a.readOnly === b.readOnly &&
    (a.strict ?? false) === (b.strict ?? false) &&
    isDeepStrictEqual(accessOf(a), accessOf(b)) &&
    a.maxConnections === b.maxConnections;
  return {
    unexport: old.exports
      .filter((one) => !now.exports.some((other) => same(one, other)))
      .map((one) => ({
        name: one.name,
        moves: now.exports.some((other) => other.name === one.name && one.device !== other.device),
      })),
    add: now.exports.filter((one) => !old.exports.some((other) => same(other, one))),
  };
}

function newFiles({ files: old = [] }: StackPlan, { files: now = [] }: StackPlan): readonly PlannedFile[] {
  return now.filter(({ path }) => !old.some((file) => file.path === path));
}

/** What is looked at when a server starts and never again. */
function settings(old: StackPlan, now: StackPlan): RestartReason[] {
  const names = {
    control: "control",
    pidfile: "pidfile",
    log: "log",
    shutdownTimeout: "shutdown-timeout",
    metrics: "metrics",
  } as const;
  return Object.entries(names)
    .filter(([key]) => !isDeepStrictEqual(old[key as keyof typeof names], now[key as keyof typeof names]))
    .map(([, what]) => ({ what, why: "it is settled when the server starts" }));
}

/** Clients that name no export get the one that has been there longest. */
function defaultExport(
  old: StackPlan,
  now: StackPlan,
  unexport: readonly { name: string }[],
): RestartReason[] {
  const stays = old.exports.find(({ name }) => !unexport.some((one) => one.name === name));
  const wanted = now.exports[0];
  if (stays === undefined || wanted === undefined || stays.name === wanted.name) return [];
  return [{ what: "exports", why: `until then clients that ask for none get ${JSON.stringify(stays.name)}` }];
}
