/** What a running disk can be told: the driver's attributes that are written to, and those that are read. */
import { type Controls, type Message, tunablesOf, unknownMessage } from "@dmkit/block-io";
import { MAX_AGE } from "../core/page-table.ts";
import { secondariesOf } from "./algorithms.ts";
import type { RunningDisk } from "./disk.ts";
import { zramOptions } from "../options.ts";
import { recompress } from "./reclaim/recompress.ts";
import { type Selection, parseSelection } from "./reclaim/selection.ts";
import { writeBack } from "./reclaim/write-back.ts";
import { tunableNames } from "./tuning.ts";
import { attribute, attributes } from "./statistics.ts";

/** Every attribute that is not set as well answers with its value. */
const readers = Object.fromEntries(
  attributes.map((name): [string, Message<RunningDisk>] => [
    name,
    {
      arguments: "",
      help: "answers with the attribute of that name",
      run: (device) => attribute(device, name) ?? refused(device, [name]),
    },
  ]),
);

export const zramControls: Controls<RunningDisk> = {
  tunables: tunablesOf(zramOptions, tunableNames),
  messages: {
    compact: {
      arguments: "",
      help: "moves pages together so that memory becomes free",
      run: ({ parts }) => `${parts.pages.compact()} bytes freed`,
    },
    reset: {
      arguments: "[force]",
      help: "forgets all contents; force: although the device is in use",
      destroys: true,
      async run(device, args) {
        if (args.length > 0) refused(device, ["reset", ...args]);
        await device.reset();
        return "";
      },
    },
    idle: {
      arguments: "all|<seconds>",
      help: "marks pages idle: all, or those that were not used for so long",
      run: (device, args) =>
        markIdle(device, args[0] === "all" ? undefined : (age(args) ?? refused(device, ["idle", ...args]))),
    },
    recompress: {
      arguments:
        "[[type=]all|idle|huge|huge_idle] [threshold=<bytes>] [max_pages=<n>] [algo=<name>] [priority=<1…3>]",
      long: true,
      help: "compresses these pages with the other algorithms, in the order of their priorities, where that takes less",
      run: async (device, args, options) =>
        `${await recompress(device, selected(device, "recompress", args, ["type", "threshold", "max_pages", "algo", "priority"]), options)} pages recompressed`,
    },
    writeback: {
      arguments: "[type=]all|idle|huge|huge_idle | page_index=<n>|page_indexes=<first>-<last> …",
      long: true,
      help: "moves these pages to the backing device",
      run: async (device, args, options) =>
        `${await writeBack(device, selected(device, "writeback", args, ["type", "page_index", "page_indexes"]), options)} pages written back`,
    },
    ...readers,
    mem_used_max: {
      arguments: "[0]",
      help: "answers with the most memory there was for pages; 0: starts anew",
      run(device, args) {
        if (args.length === 0) return attribute(device, "mem_used_max") ?? "";
        if (args.length > 1 || args[0] !== "0") refused(device, ["mem_used_max", ...args]);
        device.parts.pages.slabs.resetPeak();
        return "";
      },
    },
  },
};

function refused(device: RunningDisk, words: readonly string[]): never {
  throw unknownMessage(device.name, words, zramControls);
}

/** Marks all pages, or those that were not used for a while. */
function markIdle({ parts }: RunningDisk, seconds: number | undefined): string {
  const { table } = parts.pages;
  table.time = parts.environment.clock.now();
  for (let page = 0; page < table.pages; page += 1) {
    if (seconds === undefined || table.isUnused(page, seconds)) table.markIdle(page);
  }
  return "";
}

function age([word = "", ...rest]: readonly string[]): number | undefined {
  const seconds = /^\d+$/.test(word) && rest.length === 0 ? Number(word) : Number.NaN;
  return seconds >= 1 && seconds <= MAX_AGE ? seconds : undefined;
}

function selected(
  device: RunningDisk,
  verb: string,
  words: readonly string[],
  names: readonly string[],
): Selection {
  const { pages, algorithms } = device.parts;
  const found = parseSelection(words, names, pages.table.pages, secondariesOf(algorithms));
  // All pages are written back by that word only.
  if (found === undefined || (verb === "writeback" && words.length === 0)) refused(device, [verb, ...words]);
  return found;
}
