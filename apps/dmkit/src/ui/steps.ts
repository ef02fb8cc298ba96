/** Progress of long work that is counted in something else than bytes: one line on a terminal, lines otherwise. */

import type { CallProgress } from "../control/client.ts";
import { duration } from "../top/columns.ts";

export interface Steps {
  update(progress: CallProgress): void;
  /** Ends the line on a terminal. */
  stop(): void;
}

/** @param quiet prints nothing at all. */
export function startSteps(label: string, quiet: boolean): Steps {
  const { stderr } = process;
  let shown = false;
  let tenth = -1;
  return {
    update({ done, total, unit, rate, left }) {
      if (quiet) return;
      const percent = total === 0 ? 100 : Math.floor((done / total) * 100);
      const speed =
        rate === undefined || left === undefined ? "" : `, ${rate}/s, ${duration(left * 1000)} left`;
      const text = `${label}: ${percent} % (${done} of ${total} ${unit}${speed})`;
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
