/** `dmkit map`: a picture of where everything lies. */
import { basename, resolve } from "node:path";
import { type ImageFormat, type ImageMap } from "@dmkit/block-io";
import type { Command } from "commander";
import { requireNewFile, writeWholeFile } from "../../destination.ts";
import { type ImageFlags, imageOptions, imageWords } from "../../offline/cli.ts";
import { withImage } from "../../offline/image.ts";
import { type Picture, layOut } from "../../offline/map/cells.ts";
import { HTML_COLUMNS, HTML_ROWS, drawHtml } from "../../offline/map/html.ts";
import { PNG_COLUMNS, PNG_ROWS, drawPng } from "../../offline/map/png.ts";
import { TEXT_COLUMNS, TEXT_ROWS, drawText } from "../../offline/map/text.ts";
import { failing, interruptible, print, printJson, tellCancelled } from "../../offline/work.ts";
import { exitCodes } from "../../ui/terminal.ts";
import type { Finish, Known } from "../command.ts";
import { usage } from "../../ui/usage.ts";
import { commandEnvironment } from "../../ui/command-environment.ts";

interface MapFlags extends ImageFlags {
  readonly png?: string;
  readonly html?: string;
}

const examples = `
A cell shows what is most noteworthy in it; the legend counts bytes.

Examples:
  dmkit map cache.img                           as text
  dmkit map cache.img --png cache.png
  dmkit map cache.img --html cache.html         tells what is under the mouse
`;

export async function addMap(program: Command, finish: Finish, known: Known): Promise<void> {
  const formats = await (await known()).images();
  const command = program
    .command("map")
    .summary("draw the layout of an image")
    .description(
      "Draws where everything lies: segments, dirty blocks, holes, layers, compression. Writes nothing to the image.",
    )
    .argument("<device...>", "devices of one image; the first says what it is")
    .option("--png <file>", "write a PNG picture; an existing file is replaced")
    .option("--html <file>", "write a page for a browser; an existing file is replaced");
  imageOptions(command, formats)
    .addHelpText("after", examples)
    .action(async (devices: string[], flags: MapFlags) => {
      finish(await failing(() => map(devices, flags, formats)));
    });
}

async function map(
  devices: readonly string[],
  flags: MapFlags,
  formats: readonly ImageFormat[],
): Promise<number> {
  const words = imageWords(devices, flags, formats);
  const inputs = [...devices, ...Object.values(words.roles)];
  for (const path of [flags.png, flags.html]) {
    if (path === undefined) continue;
    if (inputs.includes(path)) throw usage(`${path} is a device of the image`, undefined);
    requireNewFile(path, PICTURE);
  }
  if (flags.png !== undefined && flags.html !== undefined && resolve(flags.png) === resolve(flags.html))
    throw usage(`--png and --html both name ${flags.png}`, "Give each picture a name of its own.");
  const options = { formats, environment: commandEnvironment };
  const done = await withImage(words, options, (image) =>
    interruptible("map", flags.quiet || flags.json, async (work) => {
      const drawn = await image.format.map(image.devices, work);
      const title = `${image.format.name}: ${devices.map((path) => basename(path)).join(", ")}`;
      // Ranges may be read from the devices as they are drawn: all of it happens while they are open.
      draw(title, drawn, flags);
    }),
  );
  return done === "cancelled" ? tellCancelled("map") : exitCodes.ok;
}

function draw(title: string, drawn: ImageMap, { png, html, json }: MapFlags): void {
  // A strip's ranges may be a generator that can be walked once.
  const strips = drawn.strips.map((strip) => ({ ...strip, ranges: [...strip.ranges] }));
  const whole: ImageMap = { ...drawn, strips };
  const rows = (all: number): number => Math.max(2, Math.floor(all / Math.max(1, strips.length)));
  if (png !== undefined)
    writeWholeFile(png, drawPng(title, layOut(whole, PNG_COLUMNS, rows(PNG_ROWS))), PICTURE);
  if (html !== undefined)
    writeWholeFile(html, drawHtml(title, layOut(whole, HTML_COLUMNS, rows(HTML_ROWS))), PICTURE);
  if (json) printJson(toJson(layOut(whole, TEXT_COLUMNS, rows(TEXT_ROWS))));
  else if (png === undefined && html === undefined)
    print(drawText(layOut(whole, TEXT_COLUMNS, rows(TEXT_ROWS))));
}

function toJson({ kinds, grids }: Picture): unknown {
  return {
    kinds: kinds.map(({ name, meaning, character, colour, weight }) => ({
      name,
      meaning,
      character,
      colour,
      weight,
    })),
    strips: grids.map(({ title, size, cellBytes, shown, totals }) => ({
      title,
      size,
      cellBytes,
      cells: [...shown].map((kind) => kinds[kind]?.character ?? ".").join(""),
      bytes: Object.fromEntries(kinds.map(({ name }, number) => [name, totals[number] ?? 0])),
    })),
  };
}

/** A picture that cannot be written leaves the one that is there; what is no picture is not replaced. */
const PICTURE = {
  replaces: (head: string): boolean =>
    head.startsWith("\x89PNG\r\n") || head.toLowerCase().startsWith("<!doctype html"),
  mode: 0o666,
} as const;
