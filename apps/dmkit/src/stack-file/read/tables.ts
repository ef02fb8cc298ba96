/** Tables of devices: written by hand, or made of options. */
import {
  BlockIoError,
  type LengthRule,
  SECTOR,
  type Segment,
  type TargetRegistry,
  absoluteTexts,
  parseTable,
  printTable,
  replaceReferences,
  toBlockIoError,
} from "@dmkit/block-io";
import type { DeviceContext } from "./context.ts";
import { hasOpenLength, ruleOf, withLength, withOpenLength } from "../../manager/lengths.ts";
import type { PlannedDevice } from "../plan.ts";
import { show } from "../problem.ts";
import { resolveReference } from "./references.ts";
import { check, tableDeviceSchema } from "./schema.ts";
import { type MapValue, type Problems, type Value, plainOf } from "../yaml.ts";

/** A table's segments; none if it is not well-formed. */
export function parseTableText(
  table: string,
  targets: TargetRegistry,
  refuse: (reason: string, hint: string | undefined) => void,
): readonly Segment[] {
  try {
    return parseTable(table, targets);
  } catch (error) {
    if (!(error instanceof BlockIoError)) throw error;
    refuse(error.reason, error.hint);
    return [];
  }
}

/** A table of one line. @param length bytes, or where to take it from. */
export function lineOf(
  target: string,
  options: unknown,
  length: number | LengthRule,
  targets: TargetRegistry,
): Pick<PlannedDevice, "table" | "length"> {
  const sectors = typeof length === "number" ? length / SECTOR : 1;
  const table = printTable([{ start: 0, length: sectors, target: targets.get(target), options }]);
  return typeof length === "number" ? { table } : { table: withOpenLength(table), length };
}

/** A device written as a device-mapper table. */
export function tableDevice(
  name: string,
  where: string,
  value: MapValue,
  context: DeviceContext,
): PlannedDevice | undefined {
  const { problems, targets } = context;
  const shape = check(tableDeviceSchema, value, problems);
  const given = value.entries.get("table")?.value;
  const lines = given === undefined ? undefined : linesOf(given, problems);
  if (shape === undefined || lines === undefined) return undefined;
  const before = problems.list.length;
  const text = lines.map((line) => line.text).join("\n");
  const isOpen = hasOpenLength(text);
  // Line by line first, each as if it were the only one, so that every mistake is found.
  const segments = lines.flatMap(({ text: line, at }, index) => {
    const known = isOpen && index === lines.length - 1 ? withLength(line, 1) : line;
    const alone = parseTableText(known.replace(/^\s*\d+(?=\s)/, "0"), targets, (reason, hint) =>
      problems.add(at, reason.replace(/^table line \d+: /, ""), hint),
    );
    return alone.map((segment) => ({ ...segment, options: resolved(segment, at, context), at }));
  });
  if (problems.list.length > before) return undefined;
  const whole = parseTableText(withLength(text, 1), targets, (reason, hint) =>
    problems.add(given?.at ?? value.at, reason, hint),
  );
  const last = segments.at(-1);
  const length = isOpen && last !== undefined ? ruleOfLine(last, problems) : undefined;
  if (problems.list.length > before) return undefined;
  const table = printTable(
    whole.map((segment, index) => ({ ...segment, options: segments[index]?.options })),
  );
  const common = { name, readOnly: shape["read-only"], where };
  return length === undefined ? { ...common, table } : { ...common, table: withOpenLength(table), length };
}

function ruleOfLine(line: Segment & { readonly at: number }, problems: Problems): LengthRule | undefined {
  try {
    return ruleOf(line);
  } catch (error) {
    const { reason, hint } = toBlockIoError(error, {});
    problems.add(line.at, reason, hint);
    return undefined;
  }
}

function resolved({ target, options }: Segment, at: number, context: DeviceContext): unknown {
  const references = replaceReferences(target.options, options, (word) =>
    resolveReference(word, at, context),
  );
  return absoluteTexts(target.options, references, context.folder);
}

interface Line {
  readonly text: string;
  readonly at: number;
}

/** The lines of a table that is a list of lines or one text; without empty ones and comments. */
function linesOf(value: Value, problems: Problems): readonly Line[] | undefined {
  const items = value.kind === "list" ? value.items : [value];
  const lines: Line[] = [];
  for (const item of items) {
    if (item.kind !== "scalar" || typeof item.value !== "string") {
      problems.add(item.at, `${show(plainOf(item))} is not a line of a table`, "<start> <length> <target> …");
      return undefined;
    }
    for (const text of item.value.split("\n")) {
      if (!/^\s*(#|$)/.test(text)) lines.push({ text, at: item.at });
    }
  }
  if (lines.length > 0) return lines;
  problems.add(value.at, "the table has no lines", "<start> <length> <target> …");
  return undefined;
}
