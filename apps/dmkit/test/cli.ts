/** Running the offline commands in this process: much quicker than a process for each, where there are hundreds. */
import { expect } from "vitest";
import { runCommandLine } from "../src/command-line.ts";
import type { Known } from "../src/commands/command.ts";
import type { Result } from "./support.ts";

/** Runs `work` and collects what it prints. */
export async function captured<T>(
  work: () => Promise<T>,
): Promise<{ value: T; stdout: string; stderr: string }> {
  const out = capture(process.stdout);
  const err = capture(process.stderr);
  try {
    const value = await work();
    return { value, stdout: out.text(), stderr: err.text() };
  } finally {
    out.release();
    err.release();
  }
}

/** As `dmkit ARGS…`, without a process: what it prints, and its exit code. */
export async function cli(...args: string[]): Promise<Result> {
  return cliWith(undefined, ...args);
}

/** Where a command runs and what it finds in the environment; default: as this process. */
interface Surroundings {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
}

let isElsewhere = false;

/** The same in another folder or with other variables. They are those of the whole process: one at a time. */
export async function cliIn({ cwd, env }: Surroundings, ...args: string[]): Promise<Result> {
  if (isElsewhere)
    throw new Error(`dmkit ${args.join(" ")}: beside another one it needs a process of its own`);
  isElsewhere = true;
  const before = { cwd: process.cwd(), env: process.env };
  try {
    if (cwd !== undefined) process.chdir(cwd);
    if (env !== undefined)
      process.env = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined));
    return await cli(...args);
  } finally {
    process.env = before.env;
    process.chdir(before.cwd);
    isElsewhere = false;
  }
}

/** What runs, and for which test: what it prints would be taken for the output of a later one. */
const running = new Map<string, string | undefined>();

/** The same with other targets than those of the app. */
export async function cliWith(known: Known | undefined, ...args: string[]): Promise<Result> {
  const { currentTestName: test } = expect.getState();
  for (const [line, other] of running)
    if (other !== test) throw new Error(`${other ?? "a hook"} has left dmkit ${line} running`);
  const line = args.join(" ");
  running.set(line, test);
  try {
    const { value: code, stdout, stderr } = await captured(() => runCommandLine(args, known));
    return { code, stdout, stderr };
  } finally {
    running.delete(line);
  }
}

/** What commands print now goes to the one that began last, whichever of them ends first. */
interface Taken {
  /** Puts the stream back as it was. */
  readonly restore: () => void;
  readonly takers: { text: string }[];
}

const taken = new Map<NodeJS.WriteStream, Taken>();

function capture(stream: NodeJS.WriteStream): { release(): void; text(): string } {
  const before = Object.getOwnPropertyDescriptor(stream, "write");
  const restore = (): void => {
    if (before === undefined) Reflect.deleteProperty(stream, "write");
    else Object.defineProperty(stream, "write", before);
  };
  const now = taken.get(stream) ?? { restore, takers: [] };
  const { takers } = now;
  taken.set(stream, now);
  const mine = { text: "" };
  takers.push(mine);
  if (takers.length === 1)
    stream.write = (chunk: string | Uint8Array): boolean => {
      const last = takers.at(-1);
      if (last !== undefined) last.text += String(chunk);
      return true;
    };
  return {
    release() {
      takers.splice(takers.indexOf(mine), 1);
      if (takers.length > 0) return;
      now.restore();
      taken.delete(stream);
    },
    text: () => mine.text,
  };
}
