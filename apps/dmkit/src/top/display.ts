/**
 * Where `dmkit top` shows what it sees: a terminal that it fills and takes keys from, or lines for a pipe.
 *
 * Invariant: a terminal is left as it was found, however it ends.
 */
import { printableJson } from "@dmkit/block-io";
import { views } from "./columns.ts";
import { type Controls, initialControls, keysOf, pressed } from "./controls.ts";
import type { Figures } from "./figures.ts";
import { History } from "./history.ts";
import { pageOf, screenOf } from "./screen.ts";

export interface Display {
  /** What there was before the first look, where that is shown. */
  readonly history?: History;
  show(figures: Figures): void;
  close(): void;
}

// Terminal sequences: another screen without a cursor, back again, home, and the rest of a line or screen blank.
const ENTER = "\u001b[?1049h\u001b[?25l";
const LEAVE = "\u001b[?25h\u001b[?1049l";
const HOME = "\u001b[H";
const REST_OF_LINE = "\u001b[K";
const REST_OF_SCREEN = "\u001b[J";

function print(text: string): void {
  process.stdout.write(text);
}

/** @param json lines of JSON. @param once one look, which stays on the screen. @param end called by the key for that. */
export function openDisplay(
  { json = false, once }: { readonly json?: boolean | undefined; readonly once: boolean },
  end: () => void,
): Display {
  if (json) return { show: (figures) => print(`${printableJson(figures)}\n`), close() {} };
  if (process.stdout.isTTY && !once) return openTerminal(end);
  let shown = false;
  return {
    show(figures) {
      print(`${shown ? "\n" : ""}${screenOf(figures).join("\n")}\n`);
      shown = true;
    },
    close() {},
  };
}

function openTerminal(end: () => void): Display {
  const { stdout, stdin } = process;
  const history = new History();
  let controls: Controls = initialControls;
  /** The newest, and those that are shown: not the same while it stands still. */
  let newest: Figures | undefined;
  let shown: Figures | undefined;

  const draw = (): void => {
    if (shown === undefined) return;
    // A terminal that does not know its size says 0.
    const size = { columns: stdout.columns || 80, rows: stdout.rows || 24 };
    const lines = pageOf(shown, controls, history, size).map((line) => `${line}${REST_OF_LINE}`);
    print(`${HOME}${lines.join("\r\n")}${REST_OF_SCREEN}`);
  };
  const typed = (bytes: Buffer): void => {
    for (const key of keysOf(bytes.toString())) {
      const next = pressed(controls, key);
      if (next === undefined) return end();
      const last = shown === undefined ? 0 : views[next.view].rows(shown).length - 1;
      controls = { ...next, from: Math.max(0, Math.min(next.from, last)) };
    }
    if (!controls.paused) shown = newest;
    draw();
  };
  // In raw mode Ctrl-C is a key like any other.
  if (stdin.isTTY) stdin.setRawMode(true).on("data", typed);
  stdout.on("resize", draw);
  print(`${ENTER}${HOME}measuring …`);
  return {
    history,
    show(figures) {
      newest = figures;
      history.add(figures);
      if (!controls.paused) shown = figures;
      draw();
    },
    close() {
      stdout.off("resize", draw);
      print(LEAVE);
      if (stdin.isTTY) stdin.off("data", typed).setRawMode(false).pause();
    },
  };
}
