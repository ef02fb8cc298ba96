/** Files that are read whole. */
import type { Stats } from "node:fs";

// A pipe that a shell has opened already: opening it again does not wait.
const INHERITED = /^\/(dev\/(stdin|fd\/\d+)|proc\/self\/fd\/\d+)$/;

/** Whether opening it would wait for a writer, and that may be nobody. */
export function waitsForWriter(path: string, stat: Stats): boolean {
  return stat.isFIFO() && !INHERITED.test(path);
}
