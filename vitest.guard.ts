/**
 * All files of a package run in one process (`vitest.shared.ts`), so what one leaves behind happens to those after it: a
 * variable, a folder, a listener, a timer, a server, a command that still runs. The file that leaves something fails, and
 * not some other one a minute later.
 */
import { afterAll, beforeAll, vi } from "vitest";

/** What a process has that a test may change, by what it is called. */
type State = ReadonlyMap<string, unknown>;

/** Handles and timers that keep a process alive, counted: vitest has pipes, and timers that come and go. */
function held(): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const name of process.getActiveResourcesInfo()) counts.set(name, (counts.get(name) ?? 0) + 1);
  return counts;
}

function state(): State {
  const entries: [string, unknown][] = [
    ["the current folder", process.cwd()],
    ["process.exitCode", process.exitCode],
    ["process.stdout.write", Reflect.get(process.stdout, "write")],
    ["process.stderr.write", Reflect.get(process.stderr, "write")],
    ["console.log", console.log],
    ["setTimeout", setTimeout],
    ["Date", Date],
    ["Date.now", Date.now],
    ["Math.random", Math.random],
    ["fetch", fetch],
    ["the mode mask", process.umask()],
  ];
  for (const [name, value] of Object.entries(process.env)) entries.push([`$${name}`, value]);
  // Modules that are loaded with their first use clear up at the end of the process, and stay.
  for (const name of process.eventNames().filter((one) => one !== "exit"))
    entries.push([`listeners of "${String(name)}"`, process.listenerCount(name)]);
  return new Map(entries);
}

/** What is not as it was; a listener that is gone as well. */
function changes(before: State, after: State): string[] {
  const names = new Set([...before.keys(), ...after.keys()]);
  return [...names]
    .filter((name) => before.get(name) !== after.get(name))
    .map((name) => `${name} is ${shown(after.get(name))}, and was ${shown(before.get(name))}`);
}

function shown(value: unknown): string {
  return typeof value === "function" ? "another function" : (JSON.stringify(value) ?? "not set");
}

let before: State;
let heldBefore: Map<string, number>;

/** What files before have left, and were blamed for: once is enough. */
const blamed = globalThis as { dmkitLeft?: Map<string, number> };

beforeAll(() => {
  before = state();
  heldBefore = new Map([...held()].filter(([name]) => name !== "Timeout" && name !== "Immediate"));
  for (const [name, count] of blamed.dmkitLeft ?? [])
    heldBefore.set(name, Math.max(count, heldBefore.get(name) ?? 0));
});

afterAll(async () => {
  const left = changes(before, state());
  if (vi.isFakeTimers()) left.push("the time is not the real one");
  const more = (): [string, number][] =>
    [...held()].filter(([name, count]) => count > (heldBefore.get(name) ?? 0));
  // What was closed last is gone some turns later, and so are the timers of vitest; on a busy machine that takes a while.
  for (let turn = 0; turn < 6000 && more().length > 0; turn += 1)
    await new Promise((resolve) => setTimeout(resolve, 10).unref());
  for (const [name, count] of more())
    left.push(`${count - (heldBefore.get(name) ?? 0)} more that keep the process alive: ${name}`);
  blamed.dmkitLeft = new Map([...(blamed.dmkitLeft ?? []), ...more()]);
  if (left.length > 0) throw new Error(`the tests leave behind for those of other files: ${left.join("; ")}`);
});
