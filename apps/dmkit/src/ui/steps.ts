/** Progress of long work that is counted in something else than bytes: one line on a terminal, lines otherwise. */

export interface StepsProgress {
  readonly done: number;
  readonly total: number;
  readonly unit: string;
}

export interface Steps {
  update(progress: StepsProgress): void;
  /** Ends the line on a terminal. */
  stop(): void;
}

/** @param quiet prints nothing at all. */
export function startSteps(label: string, quiet: boolean): Steps {
  const { stderr } = process;
  let shown = false;
  let tenth = -1;
  return {
    update({ done, total, unit }) {
      if (quiet) return;
      const percent = total === 0 ? 100 : Math.floor((done / total) * 100);
      const text = `${label}: ${percent} % (${done} of ${total} ${unit})`;
      if (stderr.isTTY) stderr.write(`\r${text}\u001b[K`);
      else if (Math.floor(percent / 10) > tenth) stderr.write(`${text}\n`);
      tenth = Math.max(tenth, Math.floor(percent / 10));
      shown = true;
    },
    stop() {
      if (shown && stderr.isTTY) stderr.write("\n");
    },
  };
}
