/**
 * The devices of a stack file, each written in one of four ways, as tables with references resolved:
 *
 *      disk: disk.img                                      a path or URI, all of it
 *      disk: { file: disk.img, create: 10G }               the same, made if it is not there
 *      disk: { target: linear, device: disk.img }          a target with options by name
 *      disk: { table: ["0 2097152 linear disk.img 0"] }    a device-mapper table
 */
import { isDeepStrictEqual } from "node:util";
import { BlockIoError, type NamedOptions, linear, restOf } from "@dmkit/block-io";
import { withLength } from "../../manager/lengths.ts";
import { checkDeviceName } from "../../manager/references.ts";
import { type DeviceContext, deviceReader } from "./context.ts";
import { readOptions } from "./options.ts";
import type { PlannedDevice } from "../plan.ts";
import { show } from "../problem.ts";
import { resolveReference } from "./references.ts";
import { type FileDeviceShape, check, deviceSchema, fileDeviceSchema } from "./schema.ts";
import { lineOf, parseTableText, tableDevice } from "./tables.ts";
import { type MapValue, type Value, pick, plainOf } from "../yaml.ts";

/** Keys of a device with a target that are no options. */
export const RESERVED: readonly string[] = ["target", "size", "read-only"];

/** One device; undefined if anything is wrong with it, with the reasons among the problems. */
export function readDevice(
  name: string,
  keyAt: number,
  value: Value,
  context: DeviceContext,
): PlannedDevice | undefined {
  const { files, problems } = context;
  const before = files.size;
  const device = readForm(name, keyAt, value, context);
  if (device?.readOnly && files.size > before) {
    const reason = `"${name}" is read-only: nothing would ever be in the file that is made for it`;
    problems.add(keyAt, reason, "leave out create, or read-only");
  }
  return device;
}

function readForm(
  name: string,
  keyAt: number,
  value: Value,
  context: DeviceContext,
): PlannedDevice | undefined {
  const { problems } = context;
  try {
    checkDeviceName(name);
  } catch (error) {
    if (!(error instanceof BlockIoError)) throw error;
    problems.add(keyAt, error.reason, error.hint);
    return undefined;
  }
  const where = problems.where(keyAt);
  if (value.kind === "scalar" && typeof value.value === "string") {
    return fileDevice(
      { file: value.value, create: undefined, preallocate: false, size: undefined, "read-only": false },
      name,
      value.at,
      context,
    );
  }
  if (value.kind !== "map") {
    problems.add(
      value.at,
      `${show(plainOf(value))} is not a device`,
      "a path, a URI, or a mapping with one of: target, file, table",
    );
    return undefined;
  }
  const forms = ["target", "file", "table"].filter((form) => value.entries.has(form));
  if (forms.includes("target")) return targetDevice(name, where, value, context);
  if (forms.length === 1 && forms[0] === "file") {
    const shape = check(fileDeviceSchema, value, problems);
    return shape && fileDevice(shape, name, value.at, context, where);
  }
  if (forms.length === 1) return tableDevice(name, where, value, context);
  const meant = [...value.entries.keys()]
    .map((key) => problems.closest(key, ["target", "file", "table"]))
    .find(Boolean);
  problems.add(
    keyAt,
    `"${name}" has ${forms.length === 0 ? "none" : "more than one"} of target, file, table`,
    "exactly one of them says what the device is",
    forms.length === 0 ? meant : undefined,
  );
  return undefined;
}

function fileDevice(
  { file, create, preallocate, size, "read-only": readOnly }: FileDeviceShape,
  name: string,
  at: number,
  context: DeviceContext,
  where: string = context.problems.where(at),
): PlannedDevice | undefined {
  const device =
    create === undefined && !preallocate
      ? resolveReference(file, at, context)
      : deviceReader(context).file({ file, create, preallocate }, at);
  if (device === undefined) return undefined;
  const length = size ?? restOf(device);
  return { name, ...lineOf(linear.name, { device, offset: 0 }, length, context.targets), readOnly, where };
}

function targetDevice(
  name: string,
  where: string,
  value: MapValue,
  context: DeviceContext,
): PlannedDevice | undefined {
  const { problems, targets } = context;
  const before = problems.list.length;
  const shape = check(
    deviceSchema,
    pick(value, (key) => RESERVED.includes(key)),
    problems,
  );
  const targetAt = value.entries.get("target")?.value.at ?? value.at;
  const target = targets
    .list()
    .find(
      ({ name: known, aliases = [] }) =>
        shape?.target !== undefined && [known, ...aliases].includes(shape.target),
    );
  if (target === undefined) {
    const known = targets.list().map((one) => one.name);
    if (shape !== undefined) {
      problems.add(
        targetAt,
        `there is no target ${show(shape.target)}`,
        `targets: ${known.join(", ")}`,
        problems.closest(shape.target ?? "", known),
      );
    }
    return undefined;
  }
  const { stack } = target;
  const own = pick(value, (key) => !RESERVED.includes(key));
  const defaults = stack?.defaults?.(plainOf(own) as NamedOptions);
  const options = readOptions(target.name, target.options, own, deviceReader(context), problems, {
    alsoKnown: RESERVED,
    defaults,
  });
  const conflict = options && stack?.conflict?.(options);
  if (conflict !== undefined) {
    problems.add(
      value.entries.get(conflict.option)?.value.at ?? value.at,
      conflict.what,
      "change one of the two",
    );
  }
  if (shape !== undefined && shape.size === undefined && stack?.length === undefined) {
    problems.add(
      value.at,
      `${target.name} needs size`,
      "a size such as 10G: what lies below does not tell it",
    );
  }
  if (options === undefined || shape === undefined || problems.list.length > before) return undefined;
  const length = shape.size ?? stack?.length?.(options);
  if (length === undefined) return undefined;
  const line = lineOf(target.name, options, length, targets);
  if (!staysTheSame(line.table, options, value, context)) return undefined;
  return { name, ...line, readOnly: shape["read-only"], where };
}

/** A table can say less than options by name; what it cannot say must not get lost on the way. */
function staysTheSame(
  table: string,
  options: NamedOptions,
  value: MapValue,
  context: DeviceContext,
): boolean {
  const { problems, targets } = context;
  const [segment] = parseTableText(withLength(table, 1), targets, (reason, hint) =>
    problems.add(value.at, reason, hint),
  );
  if (segment === undefined) return false;
  const kept = segment.options as NamedOptions;
  const lost = Object.keys(options).filter((name) => !isDeepStrictEqual(kept[name], options[name]));
  for (const name of lost) {
    const at = value.entries.get(name)?.value.at ?? value.at;
    problems.add(at, `${name}: ${show(options[name])} does not go with the other options`, "leave it out");
  }
  return lost.length === 0;
}
