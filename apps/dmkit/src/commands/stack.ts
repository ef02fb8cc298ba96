/** `dmkit stack`: stack files, looked at without serving them. */
import { printableJson, printableLines } from "@dmkit/block-io";
import type { Command } from "commander";
import { exitCodes } from "../ui/terminal.ts";
import type { Finish, Known } from "./command.ts";

const examples = `
Examples:
  dmkit stack check stack.yaml                  the tables, exports and listeners it describes
  dmkit stack check stack.yaml --json
  dmkit stack check new.yaml --against old.yaml what a reload would do
`;

interface CheckFlags {
  readonly json: boolean;
  readonly quiet: boolean;
  readonly against?: string;
}

/** @param finish is given the exit code. */
export function addStack(program: Command, finish: Finish, known: Known): void {
  const stack = program.command("stack").summary("check stack files").description("Stack files in YAML.");
  stack
    .command("check")
    .summary("tell what a stack file describes, or what is wrong with it")
    .description(
      "Reads a stack file and prints its devices as device-mapper tables, its exports and where it listens. Opens and writes nothing, and refuses what serving would refuse because two devices use the same bytes. All problems are listed, each as file:line:column; the exit code is 2 then.",
    )
    .argument("<file>", "stack file")
    .option("--json", "print JSON", false)
    .option("-q, --quiet", "print problems only", false)
    .option("--against <file>", "tell what has to be done to come here from another stack file")
    .addHelpText("after", examples)
    .action(async (file: string, flags: CheckFlags) => {
      // YAML and schemas are loaded only by who needs them.
      const { readStackFile } = await import("../stack-file/read/read.ts");
      const { findConflicts } = await import("../stack-file/owners.ts");
      const { StackFileError } = await import("../stack-file/problem.ts");
      const targets = await known();
      const plan = readStackFile(file, targets);
      const conflicts = await findConflicts(plan, targets);
      if (conflicts.length > 0) throw new StackFileError(conflicts);
      if (flags.against === undefined) {
        const { describePlan, planFacts } = await import("../stack-file/describe.ts");
        print(
          flags,
          () => planFacts(plan, targets),
          () => describePlan(plan, targets),
        );
      } else {
        const { diffPlans } = await import("../stack-file/diff.ts");
        const { describeDiff } = await import("../stack-file/describe.ts");
        const diff = diffPlans(readStackFile(flags.against, targets), plan, targets);
        print(
          flags,
          () => diff,
          () => describeDiff(diff),
        );
      }
      finish(exitCodes.ok);
    });
}

function print({ json, quiet }: CheckFlags, facts: () => unknown, text: () => string): void {
  if (quiet) return;
  process.stdout.write(json ? `${printableJson(facts(), 2)}\n` : printableLines(text()));
}
