/** Signals that come while the program is still being loaded, when nobody else takes them; and whose child it was before that. */
import "./serve/process/parent.ts";

let hasHungUp = false;
const hangup = (): void => {
  hasHungUp = true;
};

/**
 * From now on SIGUSR1 does nothing: Node would open its debugger, to every user of this machine. SIGHUP is for servers to
 * read their file again, and must not end one that is about to.
 */
export function takeEarlySignals(command: string | undefined): void {
  process.on("SIGUSR1", () => {});
  if (command === "serve") process.on("SIGHUP", hangup);
}

/** Whether SIGHUP has come. From now on it is somebody else's. */
export function earlyHangup(): boolean {
  process.off("SIGHUP", hangup);
  return hasHungUp;
}
