/** What tells a server to stop: signals, and the end of its parent. */
import { constants } from "node:os";
import { type Environment, type Timer, endProcess, every } from "@dmkit/block-io";
import { earlyHangup } from "../early-signals.ts";
import { isParentGone, wasOrphaned } from "./process/parent.ts";

// A terminal or ssh session that goes away must not take unflushed writes with it.
const stopSignals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * The first SIGINT or SIGTERM asks for an orderly end, the second ends the process at once. So does SIGHUP, unless
 * somebody has another use for it.
 */
export class StopSignal {
  /** Resolves with undefined when somebody asked to stop. */
  readonly requested: Promise<undefined>;
  /** What SIGHUP does instead. */
  onHangup: (() => void) | undefined;
  readonly #signalled: (signal: NodeJS.Signals) => void;
  #request!: () => void;
  #asked = false;
  #ready = false;
  #early: boolean;

  constructor() {
    this.requested = new Promise((resolve) => {
      this.#request = () => resolve(undefined);
    });
    this.#signalled = (signal) => {
      if (signal === "SIGHUP" && !this.#ready) {
        this.#early = true;
        return;
      }
      if (signal === "SIGHUP" && this.onHangup !== undefined) {
        this.onHangup();
        return;
      }
      if (this.#asked) endProcess(128 + constants.signals[signal]);
      this.stop();
    };
    for (const signal of stopSignals) process.on(signal, this.#signalled);
    this.#early = earlyHangup();
  }

  /** To be called when it is settled what SIGHUP does: one that came before does it now. */
  ready(): void {
    this.#ready = true;
    if (this.#early) this.#signalled("SIGHUP");
  }

  stop(): void {
    this.#asked = true;
    this.#request();
  }

  dispose(): void {
    for (const signal of stopSignals) process.off(signal, this.#signalled);
  }
}

/** Stops when the process that started this one is gone, or was gone before it ran; looks twice a second. */
export function watchParent(stop: StopSignal, { clock, logger }: Environment): Timer {
  const hasNone = wasOrphaned();
  const look = (): void => {
    if (!hasNone && !isParentGone()) return;
    timer.cancel();
    logger.log("info", "the parent process is gone");
    stop.stop();
  };
  const timer = every(clock, 500, look);
  look();
  return timer;
}
