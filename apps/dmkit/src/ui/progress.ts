/** Progress of long work: a bar with rate and time left on a terminal, plain lines otherwise. */
import { createRequire } from "node:module";
import { describeSize } from "@dmkit/block-io";
import type { SingleBar } from "cli-progress";

export interface Progress {
  /** @param bytes done so far. @param more what else is to be known. */
  update(bytes: number, more?: string): void;
  /** Leaves the last state on the screen. */
  stop(): void;
}

// Milliseconds: what is over sooner needs no progress in a log.
const SOON = 2000;

const nothing = { update() {}, stop() {} };

/** @param total bytes. @param quiet prints nothing at all. */
export function startProgress(label: string, total: number, quiet: boolean): Progress {
  if (quiet || total === 0) return nothing;
  return process.stderr.isTTY ? bar(label, total) : lines(label, total);
}

// The package takes 23 ms to load where node -e 0 takes 120, for nothing where there is no terminal.
function newBar(format: string): SingleBar {
  const require = createRequire(import.meta.url);
  const progress = require("cli-progress") as typeof import("cli-progress");
  return new progress.SingleBar(
    { format, stream: process.stderr, hideCursor: true, etaBuffer: 50, gracefulExit: false },
    progress.Presets.shades_classic,
  );
}

function bar(label: string, total: number): Progress {
  const started = Date.now();
  const shown = newBar(
    `${label} {bar} {percentage}% | {done} of {size} | {rate}/s | {eta_formatted} left{more}`,
  );
  const payload = (bytes: number, more?: string): Record<string, string> => ({
    more: more === undefined ? "" : ` | ${more}`,
    done: describeSize(bytes),
    size: describeSize(total),
    rate: describeSize(Math.round(bytes / Math.max(0.001, (Date.now() - started) / 1000))),
  });
  shown.start(total, 0, payload(0));
  return {
    update: (bytes, more) => shown.update(bytes, payload(bytes, more)),
    stop: () => shown.stop(),
  };
}

function lines(label: string, total: number): Progress {
  const started = Date.now();
  let printed = 0;
  return {
    update(bytes, more) {
      const tenth = Math.floor((bytes / total) * 10);
      if (tenth <= printed || Date.now() - started < SOON) return;
      printed = tenth;
      const seconds = Math.max(0.001, (Date.now() - started) / 1000);
      process.stderr.write(
        `${label}: ${tenth * 10} % (${describeSize(bytes)} of ${describeSize(total)}, ${describeSize(Math.round(bytes / seconds))}/s${more === undefined ? "" : `, ${more}`})\n`,
      );
    },
    stop() {},
  };
}

/** Progress of work of which only the share that is done is known. */
export interface RatioProgress {
  update(done: number, total: number): void;
  stop(): void;
}

/** Starts to show with the first update. @param quiet prints nothing at all. */
export function startRatio(label: string, quiet: boolean): RatioProgress {
  if (quiet) return nothing;
  return process.stderr.isTTY ? ratioBar(label) : ratioLines(label);
}

function ratioBar(label: string): RatioProgress {
  const shown = newBar(`${label} {bar} {percentage}% | {eta_formatted} left`);
  let started = false;
  return {
    update(done, total) {
      if (!started) shown.start(total, done);
      else shown.setTotal(total);
      started = true;
      shown.update(done);
    },
    stop() {
      if (started) shown.stop();
    },
  };
}

function ratioLines(label: string): RatioProgress {
  const started = Date.now();
  let printed = 0;
  return {
    update(done, total) {
      const tenth = total === 0 ? 10 : Math.floor((done / total) * 10);
      if (tenth <= printed || Date.now() - started < SOON) return;
      printed = tenth;
      process.stderr.write(`${label}: ${tenth * 10} %\n`);
    },
    stop() {},
  };
}
