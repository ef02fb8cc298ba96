/**
 * Reads a stack file: text to plan, or to all that is wrong with it.
 *
 * Nothing that the file names is opened, or even looked at: what a plan says depends on the text and on where the file
 * lies, on nothing else.
 */
import { closeSync, openSync, readSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { type TargetRegistry, toBlockIoError } from "@dmkit/block-io";
import { schemes } from "../devices.ts";
import { targets } from "../targets.ts";
import { type DeviceContext, readDevice } from "./devices.ts";
import { knownLength, plannedSize, tableOfLength } from "./lengths.ts";
import { placeOf, readExports, readListeners, socketPath } from "./listeners.ts";
import { orderDevices } from "./order.ts";
import type { PlannedDevice, PlannedFile, StackPlan } from "./plan.ts";
import { StackFileError, type StackProblem, show } from "./problem.ts";
import { deviceNamed } from "./references.ts";
import { check, fileSchema } from "./schema.ts";
import { MAX_BYTES, type MapValue, Problems, type Value, parseYaml, plainOf } from "./yaml.ts";

export interface StackText {
  readonly text: string;
  /** As problems name it; relative paths in it start at its folder. */
  readonly file: string;
}

export type ReadResult =
  | { readonly plan: StackPlan; readonly problems?: undefined }
  | { readonly plan?: undefined; readonly problems: readonly StackProblem[] };

/** Reads a file. Throws {@link StackFileError} with all problems; ENOENT, EACCES and the like for the file itself. */
export function readStackFile(file: string): StackPlan {
  const { plan, problems } = parseStack({ text: readText(file), file });
  if (problems !== undefined) throw new StackFileError(problems);
  return plan;
}

/** No more of it than a stack file can have, whatever it is. */
function readText(file: string): string {
  const buffer = Buffer.alloc(MAX_BYTES + 1);
  let length = 0;
  try {
    const descriptor = openSync(file, "r");
    try {
      for (let count = -1; count !== 0 && length < buffer.length; length += count) {
        count = readSync(descriptor, buffer, length, buffer.length - length, null);
      }
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    throw toBlockIoError(error, { device: file, op: "open", hint: "Give the path of a stack file (YAML)." });
  }
  const refuse = (what: string, allowed: string): StackFileError =>
    new StackFileError([{ file, line: 1, column: 1, what, allowed }]);
  if (length > MAX_BYTES) throw refuse("the file is too large", `at most ${MAX_BYTES} bytes`);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(buffer.subarray(0, length));
  } catch {
    throw refuse("the file is not text in UTF-8", "a stack file is YAML");
  }
}

/** Reads a text. */
export function parseStack({ text: given, file }: StackText, registry: TargetRegistry = targets): ReadResult {
  const text = given.replace(/^\uFEFF/, "");
  const problems = new Problems(file, text);
  const value = parseYaml(text, problems);
  const plan = value === undefined ? undefined : readPlan(value, file, registry, problems);
  if (problems.list.length > 0 || plan === undefined) return { problems: problems.sorted() };
  return { plan };
}

function readPlan(
  value: Value,
  file: string,
  registry: TargetRegistry,
  problems: Problems,
): StackPlan | undefined {
  const shape = check(fileSchema, value, problems);
  if (value.kind !== "map") return undefined;
  const path = resolve(file);
  const folder = dirname(path);
  const at = (key: string): Value | undefined => value.entries.get(key)?.value;
  const files = new Map<string, PlannedFile>();
  const { devices, names } = readDevices(at("devices"), {
    problems,
    folder,
    files,
    targets: registry,
    schemes: Object.keys(schemes),
  });
  const exports = readExports(at("exports"), names, problems);
  const listen = readListeners(at("listen"), folder, problems);
  const metrics = readMetrics(at("metrics"), problems);
  const control = shape?.control;
  const controlPath =
    control === undefined ? undefined : socketPath(control, at("control")?.at ?? 0, folder, problems);
  if (controlPath !== undefined && listen.some((listener) => placeOf(listener) === controlPath)) {
    problems.add(
      at("control")?.at ?? 0,
      "the control socket is one of those listened at",
      "give it a path of its own",
    );
  }
  return {
    path,
    devices,
    files: [...files.values()],
    exports,
    listen,
    ...(controlPath === undefined ? {} : { control: controlPath }),
    ...(shape?.pidfile === undefined ? {} : { pidfile: resolve(folder, shape.pidfile) }),
    ...(shape?.log === undefined ? {} : { log: shape.log }),
    ...(shape?.["shutdown-timeout"] === undefined ? {} : { shutdownTimeout: shape["shutdown-timeout"] }),
    ...(metrics === undefined ? {} : { metrics }),
  };
}

function readDevices(
  value: Value | undefined,
  context: Omit<DeviceContext, "names">,
): { devices: readonly PlannedDevice[]; names: ReadonlySet<string> } {
  const { problems, targets: registry } = context;
  if (value === undefined || (value.kind === "scalar" && value.value === null))
    return { devices: [], names: new Set() };
  if (value.kind !== "map") {
    problems.add(
      value.at,
      `devices: ${show(plainOf(value))} is not allowed`,
      "a mapping of names to devices",
    );
    return { devices: [], names: new Set() };
  }
  const names = new Set(value.entries.keys());
  const devices: PlannedDevice[] = [];
  for (const [name, { keyAt, value: device }] of value.entries) {
    const read = readDevice(name, keyAt, device, { ...context, names });
    if (read !== undefined) devices.push(read);
  }
  const { devices: ordered, cycles } = orderDevices(devices, registry);
  for (const chain of cycles) reportCycle(chain, value, problems);
  return { devices: fillLengths(ordered), names };
}

function reportCycle(chain: readonly string[], devices: MapValue, problems: Problems): void {
  const at = devices.entries.get(chain[0] ?? "")?.keyAt ?? devices.at;
  problems.add(
    at,
    `"${chain[0]}" stands on itself: ${chain.join(" → ")}`,
    "let one of them stand on something else",
  );
}

/** Puts in the lengths that follow from other devices of the file. Errors are left to who opens the devices. */
function fillLengths(devices: readonly PlannedDevice[]): readonly PlannedDevice[] {
  const sizes = new Map<string, number | undefined>();
  return devices.map((device) => {
    const filled = fillLength(device, sizes);
    sizes.set(device.name, plannedSize(filled));
    return filled;
  });
}

function fillLength(device: PlannedDevice, sizes: ReadonlyMap<string, number | undefined>): PlannedDevice {
  if (device.length === undefined) return device;
  const sectors = knownLength(device.length, (reference) => sizes.get(deviceNamed(reference) ?? ""));
  if (sectors === undefined || sectors === 0) return device;
  const { length: _, ...rest } = device;
  return { ...rest, table: tableOfLength(device, sectors) };
}

function readMetrics(value: Value | undefined, problems: Problems): StackPlan["metrics"] {
  // `metrics: 9100` is short for `metrics: { port: 9100 }`.
  const place: Value | undefined =
    value?.kind === "scalar" && typeof value.value === "number"
      ? { kind: "map", at: value.at, entries: new Map([["port", { keyAt: value.at, value }]]) }
      : value;
  const [listener] = readListeners(place, ".", problems);
  if (listener === undefined || place === undefined) return undefined;
  if (place.kind === "map" && "host" in listener) return { host: listener.host, port: listener.port };
  problems.add(place.at, "metrics are served at one port", "port: NUMBER, with host if it is not 127.0.0.1");
  return undefined;
}
