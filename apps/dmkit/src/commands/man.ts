/** `dmkit man`: the manual, for the terminal or as files. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { BlockIoError, asking, didYouMean, makeFolders } from "@dmkit/block-io";
import type { Command } from "commander";
import { exitCodes, exitHelp } from "../ui/terminal.ts";
import type { Finish, Known, Whole } from "./command.ts";

interface ManFlags {
  readonly into?: string;
}

export function addMan(program: Command, finish: Finish, known: Known, whole: Whole): void {
  program
    .command("man")
    .summary("print a manual page, or write them all")
    .description(
      "Prints a page of the manual for man(1): that of a command, of dmkit without one, or `targets` for all that can stand in a table. They come with the package; this is for who has not installed it.",
    )
    .argument("[page]", "a command, or targets")
    .option("--into <folder>", "write all pages into this folder")
    .addHelpText(
      "after",
      "\nExamples:\n  dmkit man serve | man -l -\n  dmkit man --into ~/.local/share/man/man1\n",
    )
    .action(async (page: string | undefined, { into }: ManFlags) => {
      const { manualPages } = await import("../manual/pages.ts");
      const { roff } = await import("../manual/roff.ts");
      const all = (await whole()).addHelpText("after", exitHelp);
      const pages = manualPages(all, await known(), `dmkit ${program.version() ?? ""}`);
      if (into !== undefined) {
        asking({ device: into, op: "open" }, () => {
          makeFolders(into);
          for (const one of pages) writeFileSync(join(into, `${one.name}.${one.section}`), roff(one));
        });
      } else {
        const name = page === undefined ? "dmkit" : `dmkit-${page}`;
        // The targets have a command as well; what can stand in a table says more.
        const found = pages.toReversed().find((one) => one.name === name);
        if (found === undefined) {
          const names = pages.map((one) => one.name.replace(/^dmkit-?/, "")).filter((one) => one !== "");
          throw new BlockIoError(`there is no page "${page}"`, {
            code: "EPARSE",
            hint: `${didYouMean(page ?? "", names)}Pages: ${[...new Set(names)].join(", ")}.`,
          });
        }
        process.stdout.write(roff(found));
      }
      finish(exitCodes.ok);
    });
}
