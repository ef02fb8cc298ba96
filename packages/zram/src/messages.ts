/** Messages: the driver's attributes that are written to, in the same words. */
import { BlockIoError, parseOption } from "@dmkit/block-io";
import { MAX_AGE } from "./core/page-table.ts";
import type { ZramDevice } from "./device.ts";
import { zramOptions } from "./options.ts";
import { type Selection, recompress, selections, writeBack } from "./reclaim.ts";
import { attribute } from "./statistics.ts";

const HINT =
  "Known: compact, reset, idle all|SECONDS, recompress [idle|huge|huge_idle], writeback idle|huge|huge_idle, " +
  "mem_limit SIZE, mem_used_max 0, max_comp_streams N, and the name of an attribute to read it.";

/** Throws `EINVAL` for what is not known. */
export async function carryOut(device: ZramDevice, words: readonly string[]): Promise<string> {
  const [name = "", value, ...rest] = words;
  const { pages, primary } = device.parts;
  const refuse = (): never => {
    throw new BlockIoError(`unknown message "${words.join(" ")}"`, {
      code: "EINVAL",
      device: device.name,
      op: "message",
      hint: HINT,
    });
  };
  if (rest.length > 0) return refuse();
  switch (name) {
    case "compact":
      return `${pages.compact()} bytes freed`;
    case "reset":
      await device.suspend();
      pages.dropAll();
      await device.resume();
      return "";
    case "idle":
      return markIdle(device, value === "all" ? undefined : (age(value) ?? refuse()));
    case "recompress":
      return `${await recompress(device, selection(value ?? "all") ?? refuse())} pages recompressed`;
    case "writeback":
      return `${await writeBack(device, selection(value ?? "") ?? refuse())} pages written back`;
    case "mem_used_max":
      if (value === undefined) break;
      if (value !== "0") return refuse();
      pages.slabs.resetPeak();
      return "";
    case "mem_limit": {
      if (value === undefined) break;
      const limit = parseOption(name, zramOptions.mem_limit, value) as number;
      pages.slabs.limit = limit === 0 ? Number.POSITIVE_INFINITY : limit;
      return "";
    }
    case "max_comp_streams": {
      if (value === undefined) break;
      const spec = { ...zramOptions.max_comp_streams, min: 1 };
      await primary.setMaxStreams(parseOption(name, spec, value) as number);
      return "";
    }
    default:
  }
  const known = value === undefined ? attribute(device, name) : undefined;
  return known ?? refuse();
}

/** Marks all pages, or those that were not used for a while. */
function markIdle({ parts }: ZramDevice, seconds: number | undefined): string {
  const { table } = parts.pages;
  table.time = parts.environment.clock.now();
  for (let page = 0; page < table.pages; page += 1) {
    if (seconds === undefined || table.isUnused(page, seconds)) table.markIdle(page);
  }
  return "";
}

function age(word: string | undefined): number | undefined {
  const seconds = word !== undefined && /^\d+$/.test(word) ? Number(word) : Number.NaN;
  return seconds >= 1 && seconds <= MAX_AGE ? seconds : undefined;
}

function selection(word: string): Selection | undefined {
  return selections.find((known) => known === word);
}
