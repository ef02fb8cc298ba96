/** `dmkit compare`: whether two devices hold the same, and where they do not. */
import { type BlockDevice, SECTOR, describeSize } from "@dmkit/block-io";
import type { Command } from "commander";
import { type Difference, differences } from "../compare.ts";
import { withReading } from "../devices.ts";
import { print, tellCancelled } from "../offline/work.ts";
import { commandEnvironment } from "../ui/command-environment.ts";
import { endedBySignal } from "../ui/interrupt.ts";
import { outputLost } from "../ui/output.ts";
import { startProgress } from "../ui/progress.ts";
import { compareCodes } from "../ui/terminal.ts";
import type { Finish } from "./command.ts";

interface CompareFlags {
  readonly all: boolean;
  readonly sameSize: boolean;
  readonly json: boolean;
  readonly quiet: boolean;
}

const examples = `
Exit status: 0 they are equal; 1 they differ; 2 anything else: an error, wrong usage; 130 interrupted; 141
nobody reads any more what it prints, which is noticed when it prints something.
A device that is longer equals a shorter one if the rest of it is zeroes, unless --same-size is given.

Examples:
  dmkit compare disk.img nbd://host/backup           the first sector that differs
  dmkit compare --all old.img new.img                all of them: offset and length, in bytes
  dmkit compare -q disk.img s.img || echo changed    in a script
`;

export function addCompare(program: Command, finish: Finish): void {
  program
    .command("compare")
    .summary("compare two devices or images, and tell where they differ")
    .description(
      "Compares all of A with all of B, which are paths or URIs. What is a hole in both is not read.",
    )
    .argument("<a>", "a device or an image; opened read-only")
    .argument("<b>", "another one")
    .option("--all", "list all ranges that differ: offset and length in bytes", false)
    .option("--same-size", "devices of different sizes differ, whatever is in the rest", false)
    .option("--json", "print the result as JSON", false)
    .option("-q, --quiet", "print nothing: the exit status tells", false)
    .addHelpText("after", examples)
    .action(async (a: string, b: string, flags: CompareFlags) => {
      finish(await compare(a, b, flags));
    });
}

async function compare(a: string, b: string, flags: CompareFlags): Promise<number> {
  const done = await endedBySignal("compare", (signal) =>
    withReading(a, commandEnvironment, (first) =>
      withReading(b, commandEnvironment, (second) => tell(first, second, flags, signal)),
    ),
  );
  return done === "cancelled" ? tellCancelled("compare") : done.value;
}

async function tell(
  first: BlockDevice,
  second: BlockDevice,
  flags: CompareFlags,
  signal: AbortSignal,
): Promise<number> {
  const sizes = [first.size, second.size] as const;
  const report = reportOf(flags, sizes);
  if (flags.sameSize && first.size !== second.size) return report.end(true);
  const progress = startProgress("compare", Math.max(...sizes), flags.quiet || flags.json);
  let differ = false;
  try {
    for await (const difference of differences(first, second, {
      signal: AbortSignal.any([signal, outputLost]),
      progress: (bytes) => progress.update(bytes),
    })) {
      differ = true;
      report.add(difference);
      if (!flags.all) break;
    }
  } catch (error) {
    // Nobody is there to be told the rest.
    if (signal.aborted || !outputLost.aborted) throw error;
  } finally {
    progress.stop();
  }
  return report.end(differ);
}

interface Report {
  add(difference: Difference): void;
  /** The exit status. */
  end(differ: boolean): number;
}

// A list may be longer than memory: it is printed as it comes.
function reportOf({ all, json, quiet }: CompareFlags, sizes: readonly [number, number]): Report {
  const code = (differ: boolean): number => (differ ? compareCodes.differ : compareCodes.equal);
  if (quiet) return { add() {}, end: code };
  if (json) {
    let before = `{ "sizes": [${sizes.join(", ")}], "differences": [`;
    return {
      add({ offset, length }) {
        print(`${before}\n  { "offset": ${offset}, "length": ${length} }`);
        before = ",";
      },
      end(differ) {
        print(`${before === "," ? "\n" : before}], "equal": ${!differ} }\n`);
        return code(differ);
      },
    };
  }
  let found = false;
  return {
    add({ offset, length }) {
      found = true;
      print(all ? `${offset} ${length}\n` : `they differ at byte ${offset} (sector ${offset / SECTOR})\n`);
    },
    end(differ) {
      const [a, b] = sizes;
      if (differ && !found) print(`they differ in size: ${a} and ${b} bytes\n`);
      if (!differ && !all) {
        const rest = a === b ? "" : `, and ${describeSize(Math.abs(a - b))} of zeroes in the longer one`;
        print(`they are equal: ${describeSize(Math.min(a, b))}${rest}\n`);
      }
      return code(differ);
    },
  };
}
