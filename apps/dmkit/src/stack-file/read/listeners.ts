/** Exports of a stack file, and where it listens. */
import { resolve } from "node:path";
import { toBlockIoError } from "@dmkit/block-io";
import {
  Access,
  type AccessOptions,
  LONGEST_SOCKET_PATH,
  type ListenPolicy,
  checkNames,
  isLoopback,
} from "@dmkit/nbd";
import { accessOf } from "../access.ts";
import { type TlsValues, tlsOf } from "../../serve/listen/tls.ts";
import type { PlannedExport, PlannedListener } from "../plan.ts";
import { show } from "../problem.ts";
import { listed } from "./references.ts";
import { type ListenerShape, check, exportSchema, listenerSchema } from "./schema.ts";
import { type Problems, type Value, plainOf, wordAt, wordOf } from "../yaml.ts";

// Bytes of an export's name or description, and of a socket's path, that can be sent or bound.
const MAX_TEXT = 4096;
const MAX_SOCKET_PATH = LONGEST_SOCKET_PATH;

/** @param names of all devices of the file. */
export function readExports(
  value: Value | undefined,
  names: ReadonlySet<string>,
  problems: Problems,
): PlannedExport[] {
  if (value === undefined || isNothing(value)) return [];
  const exports: PlannedExport[] = [];
  if (value.kind === "list") {
    for (const item of value.items) {
      const name =
        item.kind === "scalar" && item.value !== null ? (wordOf(item) ?? String(item.value)) : undefined;
      if (name === undefined)
        problems.add(
          item.at,
          `${show(plainOf(item))} is not the name of a device`,
          `devices: ${listed(names)}`,
        );
      else if (exports.some((other) => other.name === name))
        problems.add(item.at, `${show(name)} is exported twice`);
      else add(exports, readExport(name, item.at, item, names, problems));
    }
    return exports;
  }
  if (value.kind === "scalar") {
    problems.add(
      value.at,
      `exports: ${show(value.value)} is not allowed`,
      "a mapping of names to devices, or a list of devices",
    );
    return [];
  }
  for (const [name, entry] of value.entries)
    add(exports, readExport(name, entry.keyAt, entry.value, names, problems));
  return exports;
}

function add<T>(list: T[], item: T | undefined): void {
  if (item !== undefined) list.push(item);
}

function readExport(
  name: string,
  keyAt: number,
  value: Value,
  names: ReadonlySet<string>,
  problems: Problems,
): PlannedExport | undefined {
  if (Buffer.byteLength(name) > MAX_TEXT)
    problems.add(keyAt, "the name of the export is too long", `at most ${MAX_TEXT} bytes`);
  // It stands in logs and lists.
  if (/\p{Cc}/u.test(name)) problems.add(keyAt, "a control character in the name of an export");
  // `disk: disk` and `disk:` are short for `disk: { device: disk }`.
  const short = value.kind === "scalar" && typeof value.value !== "boolean";
  const shape = short
    ? {
        device: wordOf(value),
        description: undefined,
        "read-only": false,
        strict: false,
        "max-connections": undefined,
        allow: undefined,
        identities: undefined,
        writers: undefined,
        hidden: undefined,
      }
    : check(exportSchema, value, problems);
  const device = wordAt(value, "device") ?? shape?.device ?? name;
  const inner = value.kind === "map" ? value.entries.get("device")?.value.at : undefined;
  if (!names.has(device)) {
    const at = inner ?? (short && value.kind === "scalar" && value.value !== null ? value.at : keyAt);
    problems.add(
      at,
      `there is no device ${show(device)}`,
      `devices: ${listed(names)}`,
      problems.closest(device, names),
    );
  }
  if (shape === undefined) return undefined;
  const { description, "read-only": readOnly, strict, "max-connections": maxConnections } = shape;
  if (Buffer.byteLength(description ?? "") > MAX_TEXT)
    problems.add(value.at, "the description is too long", `at most ${MAX_TEXT} bytes`);
  try {
    // Says what is wrong with it.
    void new Access(accessOf(shape));
  } catch (error) {
    const { reason, hint } = toBlockIoError(error, {});
    problems.add(value.at, reason, hint);
  }
  refuseEmpty(shape, value.at, problems);
  if (readOnly && shape.writers !== undefined)
    problems.add(value.at, "nobody writes to an export that is read-only", "leave out writers, or read-only");
  return {
    name,
    device,
    ...accessOf(shape),
    ...(description === undefined ? {} : { description }),
    readOnly,
    strict,
    ...(maxConnections === undefined ? {} : { maxConnections }),
    where: problems.where(keyAt),
  };
}

/** Lists in which nobody is, by mistake most likely. */
function refuseEmpty(access: ListenPolicy, at: number, problems: Problems): void {
  for (const key of ["allow", "identities", "writers"] as const)
    if (access[key]?.length === 0) problems.add(at, `${key} has nobody in it`, "leave it out for everybody");
}

function isNothing(value: Value): boolean {
  return value.kind === "scalar" && value.value === null;
}

/** One place or a list of them. */
export function readListeners(
  value: Value | undefined,
  folder: string,
  problems: Problems,
): PlannedListener[] {
  if (value === undefined || isNothing(value)) return [];
  const listeners: PlannedListener[] = [];
  const seen = new Map<string, number>();
  for (const item of value.kind === "list" ? value.items : [value]) {
    const shape = check(listenerSchema, item, problems);
    const listener = shape && readListener(shape, item.at, folder, problems);
    if (listener === undefined) continue;
    const place = placeOf(listener);
    const before = place === undefined ? undefined : seen.get(place);
    if (before !== undefined)
      problems.add(item.at, `${place} is listened at twice`, `first at ${problems.where(before)}`);
    else if (place !== undefined) seen.set(place, item.at);
    listeners.push(listener);
  }
  return listeners;
}

/** Names a place; undefined for a port that is picked when it is opened. */
export function placeOf(listener: PlannedListener): string | undefined {
  if ("unix" in listener) return listener.unix;
  return listener.port === 0 ? undefined : `${listener.host}:${listener.port}`;
}

/** @param remote what is to be said for a place that others can reach. */
export function readListener(
  { unix, host, port, "allow-remote": allowRemote, mode, group, ...rest }: ListenerShape,
  at: number,
  folder: string,
  problems: Problems,
  remote = "tls: require, or allow-remote: true, which permits it all the same",
): PlannedListener | undefined {
  const policy = readPolicy(rest, at, folder, problems);
  if (unix !== undefined) {
    if ([host, port, allowRemote, policy.allow].some((one) => one !== undefined)) {
      problems.add(
        at,
        "a unix socket has no host, port, allow-remote or allow",
        "leave out unix or those; to listen at two places give listen a list",
      );
      return undefined;
    }
    return {
      unix: socketPath(unix, at, folder, problems),
      ...(mode === undefined ? {} : { mode }),
      ...(group === undefined ? {} : { group }),
      ...policy,
    };
  }
  if (mode !== undefined || group !== undefined) {
    problems.add(at, "a port has no mode and no group", "allow: [ADDRESSES] says who may connect to a port");
  }
  if (port === undefined) {
    problems.add(
      at,
      "this does not say where to listen",
      "unix: PATH, or port: NUMBER with host if it is not 127.0.0.1",
    );
    return undefined;
  }
  // Brackets are for URIs.
  const address = host?.replaceAll(/^\[|\]$/g, "") ?? "127.0.0.1";
  if (!isLoopback(address) && allowRemote !== true && policy.tls?.mode !== "require") {
    problems.add(
      at,
      `${address} can be reached by others, and what they send and get need not be encrypted`,
      remote,
    );
  }
  return { host: address, port, allowRemote: allowRemote ?? false, ...policy };
}

function readPolicy(
  values: TlsValues & AccessOptions,
  at: number,
  folder: string,
  problems: Problems,
): ListenPolicy {
  const access = accessOf(values);
  refuseEmpty(access, at, problems);
  try {
    // Says what is wrong with it.
    void new Access(access);
    const tls = tlsOf(values, folder);
    checkNames({ ...access, tls });
    return tls === undefined ? access : { tls, ...access };
  } catch (error) {
    const { reason, hint } = toBlockIoError(error, {});
    problems.add(at, reason, hint);
    return access;
  }
}

/** A path that a socket can be bound to. */
export function socketPath(path: string, at: number, folder: string, problems: Problems): string {
  const whole = resolve(folder, path);
  const bytes = Buffer.byteLength(whole);
  if (bytes > MAX_SOCKET_PATH) {
    problems.add(
      at,
      `${show(whole)} is too long for a socket: ${bytes} bytes`,
      `at most ${MAX_SOCKET_PATH} bytes`,
    );
  }
  return whole;
}
