/**
 * Reads a stack file: text to plan, or to all that is wrong with it.
 *
 * Nothing that the file names is opened, or even looked at: what a plan says depends on the text and on where the file
 * lies, on nothing else.
 */
import { closeSync, openSync, readSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { BlockIoError, type TargetRegistry, codeOf, toBlockIoError } from "@dmkit/block-io";
import { isLoopback } from "@dmkit/nbd";
import { uriSchemes } from "../../devices.ts";
import { targets as allTargets } from "../../targets.ts";
import { waitsForWriter } from "../../fifo.ts";
import { PAGE_IS_LOCAL } from "../../page/local.ts";
import { type DeviceContext, deviceReader } from "./context.ts";
import { readDevice } from "./devices.ts";
import { placeOf, readExports, readListener, readListeners, socketPath } from "./listeners.ts";
import { orderDevices, usersOf } from "../order.ts";
import {
  type PlannedDevice,
  type PlannedExport,
  type PlannedFile,
  type StackPlan,
  plannedSize,
  withKnownLength,
} from "../plan.ts";
import { StackFileError, type StackProblem, show } from "../problem.ts";
import { type BareWord, refuseMisspelt } from "./references.ts";
import { check, fileSchema, metricsSchema, newFileSchema } from "./schema.ts";
import { MAX_BYTES, type MapValue, Problems, type Value, parseYaml, plainOf, wordAt } from "../yaml.ts";

export interface StackText {
  readonly text: string;
  /** As problems name it; relative paths in it start at its folder. */
  readonly file: string;
}

export type ReadResult =
  | { readonly plan: StackPlan; readonly problems?: undefined }
  | { readonly plan?: undefined; readonly problems: readonly StackProblem[] };

/** Reads a file. Throws {@link StackFileError} with all problems; ENOENT, EACCES and the like for the file itself. */
export function readStackFile(file: string, targets?: TargetRegistry): StackPlan {
  const { plan, problems } = parseStack({ text: readText(file), file }, targets);
  if (problems !== undefined) throw new StackFileError(problems);
  return plan;
}

const HINT = "Give the path of a stack file (YAML).";

function requireText(file: string): void {
  const stat = statSync(file);
  if (stat.isDirectory()) throw notText(file, "is a directory, not a stack file", "EINVAL");
  if (waitsForWriter(file, stat)) throw notText(file, "is a FIFO, not a stack file", "EINVAL");
}

function notText(file: string, reason: string, code: "EINVAL" | "ENOENT", cause?: unknown): BlockIoError {
  return new BlockIoError(reason, { code, device: file, op: "open", cause, hint: HINT });
}

/** No more of it than a stack file can have, whatever it is. */
function readText(file: string): string {
  const buffer = Buffer.alloc(MAX_BYTES + 1);
  let length = 0;
  try {
    requireText(file);
    const descriptor = openSync(file, "r");
    try {
      for (let count = -1; count !== 0 && length < buffer.length; length += count) {
        count = readSync(descriptor, buffer, length, buffer.length - length, null);
      }
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    if (codeOf(error) === "ENOENT") throw notText(file, "no such file", "ENOENT", error);
    throw toBlockIoError(error, { device: file, op: "open", hint: HINT });
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
export function parseStack(
  { text: given, file }: StackText,
  registry: TargetRegistry = allTargets,
): ReadResult {
  const text = given.replace(/^\uFEFF/, "");
  const problems = new Problems(file, text);
  const read = parseYaml(text, problems);
  // A file with comments only is a stack with nothing in it.
  const isEmpty = read?.kind === "scalar" && read.value === null;
  const value: Value | undefined = isEmpty ? { kind: "map", at: 0, entries: new Map() } : read;
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
  const paths: BareWord[] = [];
  const context = { problems, folder, files, paths, targets: registry, schemes: uriSchemes(registry) };
  const { devices, names } = readDevices(at("devices"), context);
  readFiles(at("files"), { ...context, names });
  refuseMisspelt(paths, names, files, problems);
  const exports = readExports(at("exports"), names, problems);
  refuseWritesBelow(exports, devices, registry, problems, at("exports"));
  const listen = readListeners(at("listen"), folder, problems);
  const metrics = readMetrics(at("metrics"), folder, problems);
  const control = wordAt(value, "control");
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
  return { devices: fillLengths(ordered, registry), names };
}

function reportCycle(chain: readonly string[], devices: MapValue, problems: Problems): void {
  const at = devices.entries.get(chain[0] ?? "")?.keyAt ?? devices.at;
  problems.add(
    at,
    `"${chain[0]}" stands on itself: ${shortened(chain).join(" → ")}`,
    "let one of them stand on something else",
  );
}

function shortened(chain: readonly string[]): readonly string[] {
  return chain.length <= 12 ? chain : [...chain.slice(0, 8), "…", ...chain.slice(-3)];
}

/** Nobody may change bytes under another device, which may have them in its cache. */
function refuseWritesBelow(
  exports: readonly PlannedExport[],
  devices: readonly PlannedDevice[],
  registry: TargetRegistry,
  problems: Problems,
  value: Value | undefined,
): void {
  const users = usersOf(devices, registry);
  const readOnlyOnes = new Set(devices.filter((one) => one.readOnly).map((one) => one.name));
  for (const { name, device, readOnly } of exports) {
    const [above] = users.get(device) ?? [];
    if (above === undefined || readOnly || readOnlyOnes.has(device)) continue;
    const at = value?.kind === "map" ? value.entries.get(name)?.keyAt : undefined;
    problems.add(
      at ?? value?.at ?? 0,
      `${above} stands on ${device}, and clients would write under it`,
      `export ${device} with read-only: true, or export ${above}`,
    );
  }
}

/** Puts in the lengths that follow from other devices of the file. Errors are left to who opens the devices. */
function fillLengths(devices: readonly PlannedDevice[], registry: TargetRegistry): readonly PlannedDevice[] {
  const sizes = new Map<string, number | undefined>();
  return devices.map((device) => {
    const filled = withKnownLength(device, sizes);
    sizes.set(device.name, plannedSize(filled, registry));
    return filled;
  });
}

/** Files that no device names, e.g. because tables do. */
function readFiles(value: Value | undefined, context: DeviceContext): void {
  const { problems } = context;
  for (const file of value?.kind === "list" ? value.items : []) {
    const shape = check(newFileSchema, file, problems);
    if (shape?.create === undefined && shape !== undefined)
      problems.add(file.at, "a file needs create", "a size such as 10G");
    else if (shape !== undefined) deviceReader(context).file(shape, file.at);
  }
  const isNothing = value?.kind === "scalar" && value.value === null;
  if (value !== undefined && value.kind !== "list" && !isNothing)
    problems.add(value.at, "files is a list", "of mappings of: file, create, preallocate");
}

function readMetrics(value: Value | undefined, folder: string, problems: Problems): StackPlan["metrics"] {
  if (value === undefined || (value.kind === "scalar" && value.value === null)) return undefined;
  // `metrics: 9100` is short for `metrics: { port: 9100 }`.
  const isShort = value.kind === "scalar" && typeof value.value === "number";
  const entries = new Map([["port", { keyAt: value.at, value }]]);
  const shape = check(metricsSchema, isShort ? { kind: "map", at: value.at, entries } : value, problems);
  if (shape === undefined) return undefined;
  const { page, ...place } = shape;
  const listener = readListener(place, value.at, folder, problems, "allow-remote: true, which permits it");
  if (listener === undefined) return undefined;
  const shown = page ? { page } : {};
  if ("unix" in listener) return { ...listener, ...shown };
  const { host, port } = listener;
  if (page && !isLoopback(host)) problems.add(value.at, ...PAGE_IS_LOCAL);
  return { host, port, ...shown };
}
