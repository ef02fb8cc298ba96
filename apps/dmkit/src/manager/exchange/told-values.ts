/**
 * Values that messages have set last until a table says otherwise: a line of the new table that says nothing gets them. The
 * default of an option says nothing: some targets take it for what is left out, and none prints it.
 */
import { type Segment, codeOf, defaultOf } from "@dmkit/block-io";
import type { ExchangeContext } from "./context.ts";
import type { ManagedDevice } from "../device/managed-device.ts";
import { sameLine } from "../references.ts";

/**
 * Sets in the table in place what messages had set in the one before. What the new one does not take is logged.
 * @param next its lines, as they were loaded. @param before those of the table before, as they were last.
 */
export async function tellAgain(
  managed: ManagedDevice,
  next: readonly Segment[],
  before: readonly Segment[],
  { logger, lines }: Pick<ExchangeContext, "logger" | "lines">,
): Promise<void> {
  const { untold } = managed;
  if (untold === undefined) return;
  managed.untold = lines();
  for (const [index, line] of next.entries()) {
    const names = line.target.tunables?.names ?? [];
    const at = names.length === 0 ? -1 : before.findIndex((old) => sameLine(old, line));
    for (const name of names) {
      const value = valueOf(before[at], name);
      const isTold = value !== undefined && value !== valueOf(untold[at], name);
      if (!isTold || isSaid(line, name)) continue;
      await managed.device.opened?.targets[index]?.message(["set", name, value]).catch((error: unknown) => {
        const fields = { device: managed.name, name, value, code: codeOf(error) };
        logger.log("warn", "a value that a message had set is not in the new table", fields);
      });
    }
  }
}

function isSaid(line: Segment, name: string): boolean {
  const spec = line.target.options[name];
  const value = optionOf(line, name);
  return value !== undefined && value !== (spec && defaultOf(spec));
}

/** As a message has it. */
function valueOf(line: Segment | undefined, name: string): string | undefined {
  const value = optionOf(line, name);
  return value === undefined ? undefined : String(typeof value === "boolean" ? Number(value) : value);
}

/** What can be set while a target runs is a number, a word or a flag. */
function optionOf(line: Segment | undefined, name: string): string | number | boolean | undefined {
  return (line?.options as Readonly<Record<string, string | number | boolean>> | undefined)?.[name];
}
